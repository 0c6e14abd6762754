"""Verify: finds damage to a lake that real runs have written, beginning with what the run records say."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.care.rollback import rollback
from pipeline.care.verify import Finding, verify
from pipeline.errors import UsageError
from pipeline.lake.layout import Lake, Partition
from pipeline.records import State
from pipeline.storage.parquet import PREFIX
from tests import lakes
from tests.workspace import DAY, Workspace, changed

PARTITION = Partition("toy", DAY, "v1")


@pytest.fixture
def revised(run_twice: Workspace, tmp_path: Path) -> Workspace:
    return run_twice.copy_to(tmp_path)


def found(workspace: Workspace) -> list[Finding]:
    ctx = workspace.context()
    return list(verify(ctx.lake, ctx.registry))


def replace(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)  # it is a link
    path.write_bytes(content)


def damage_page(workspace: Workspace) -> None:
    path = max(workspace.lake.rglob("part-*.parquet"), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 4] ^= 0xFF
    replace(path, bytes(content))


def duplicate_rows(workspace: Workspace) -> None:
    path = min(workspace.lake.rglob("part-*.parquet"))
    replace(path.with_name(f"part-{len(list(path.parent.glob('part-*'))):08d}.parquet"), path.read_bytes())


def rewritten(workspace: Workspace, change: Callable[[pa.Table], pa.Table]) -> None:
    """Writes the first part again, valid and with its metadata, but with other rows."""
    path = min(workspace.lake.rglob("part-*.parquet"))
    file = pq.ParquetFile(path)
    rows, says = change(file.read()), file.metadata.metadata
    path.unlink()
    pq.write_table(rows.replace_schema_metadata({k: v for k, v in says.items() if k.startswith(PREFIX.encode())}), path)


def drop_rows(workspace: Workspace) -> None:
    rewritten(workspace, lambda rows: rows.slice(1))


def alter_values(workspace: Workspace) -> None:
    rewritten(workspace, lambda rows: changed(rows, "prediction_proba", {3: 0.999}))


def open_gap(workspace: Workspace) -> None:
    min(workspace.lake.rglob("part-*.parquet")).unlink()


def lose_the_day(workspace: Workspace) -> None:
    shutil.rmtree(workspace.lake / "predictions" / "job=toy" / f"ds={DAY}")


def lose_everything(workspace: Workspace) -> None:
    shutil.rmtree(workspace.lake / "predictions")


def damage_record(workspace: Workspace) -> None:
    replace(min((workspace.lake / "runs").rglob("*.json")), b"{")


def damage_newest_record(workspace: Workspace) -> None:
    replace(max((workspace.lake / "runs").rglob("*.json")), b"{")


def roll_back_in_the_record_alone(workspace: Workspace) -> None:
    lake = workspace.context().lake
    lakes.put_record(lake, lake.records.of_day("toy", DAY)[-1].with_(state=State.rolled_back))


def damage_model(workspace: Workspace) -> None:
    replace(next(Path(workspace.settings.models).rglob("model.pt")), b"other")


def leave_unexpected_file(workspace: Workspace) -> None:
    (workspace.lake / PARTITION.folder / "notes.txt").write_text("mine")


def leave_a_part_in_a_subfolder(workspace: Workspace) -> None:
    path = min(workspace.lake.rglob("part-*.parquet"))
    (path.parent / "copy").mkdir()
    shutil.copy(path, path.parent / "copy" / path.name)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (damage_page, "file"),
        (duplicate_rows, "doubled"),
        (drop_rows, "ledger"),
        (alter_values, "altered"),
        (open_gap, "sequence"),
        (lose_the_day, "lost"),
        (lose_everything, "lost"),
        (damage_record, "record"),
        (damage_newest_record, "record"),
        (roll_back_in_the_record_alone, "ledger"),
        (damage_model, "model"),
        (leave_unexpected_file, "stranger"),
        (leave_a_part_in_a_subfolder, "stranger"),
    ],
)
def test_verify_finds_damage(revised: Workspace, damage: Callable[[Workspace], None], expected: str) -> None:
    assert found(revised) == []
    damage(revised)
    assert expected in {finding.kind for finding in found(revised)}


def test_verify_lost_day_is_one_finding_that_counts_its_rows(revised: Workspace) -> None:
    lose_the_day(revised)
    (only,) = found(revised)
    assert only.what.endswith("the 52 rows that runs have published")
    assert only.where.endswith(PARTITION.folder)


def test_verify_day_that_was_rolled_back_is_not_lost(workspace: Workspace) -> None:
    workspace.day(5)
    rollback(workspace.context().lake, workspace.complete().run_id)
    lose_the_day(workspace)
    assert found(workspace) == []


def test_verify_records_of_an_earlier_version_have_no_digests_to_compare(revised: Workspace) -> None:
    alter_values(revised)
    for path in (revised.lake / "runs").rglob("*.json"):
        replace(path, path.read_bytes().replace(b'"digests"', b'"unknown"'))
    assert found(revised) == []


def test_verify_where_there_is_no_lake_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no lake here"):
        list(verify(Lake.open(str(tmp_path / "nowhere"))))
