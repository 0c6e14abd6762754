"""Rolling back, verifying, clearing away and erasing, over lakes that real runs have made."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import run, staging
from pipeline.care.clean import clean, expire
from pipeline.care.erase import erase
from pipeline.care.rollback import rollback
from pipeline.care.verify import verify
from pipeline.errors import UsageError
from pipeline.lake import Lake, Partition
from pipeline.records import RunRecord, State, now
from tests.conftest import Lakescore
from tests.workspace import DAY, Workspace, changed, table

PARTITION = Partition("toy", DAY, "v1")


@pytest.fixture
def revised(workspace: Workspace) -> tuple[RunRecord, RunRecord]:
    """Two complete runs: 50 rows, then two of them changed, and one rejected."""
    rows = table(50)
    workspace.day(rows)
    first = workspace.complete()
    workspace.day(changed(rows, "a", {0: 5.0, 1: 5.0, 2: None}))
    return first, workspace.complete()


def lake_of(workspace: Workspace) -> Lake:
    return workspace.context().lake


def kinds(workspace: Workspace) -> set[str]:
    ctx = workspace.context()
    return {finding.kind for finding in verify(ctx.lake, ctx.registry)}


def revisions(workspace: Workspace, key: str) -> list[int]:
    query = f"SELECT revision FROM predictions WHERE id = '{key}' ORDER BY revision"
    return [row["revision"] for row in workspace.stored(query)]


# Rollback


def test_rollback_newest_run_brings_back_what_was_before(
    workspace: Workspace, revised: tuple[RunRecord, RunRecord]
) -> None:
    _, second = revised
    lake = lake_of(workspace)
    before = [file.path for file in lake.parts(PARTITION)]
    done = rollback(lake, second.run_id)
    assert done.files == tuple(file.path for file in second.committed)
    assert [file.path for file in lake.parts(PARTITION)] == before, "no number is freed"
    assert revisions(workspace, "u0") == [0]
    assert lake.read_record("toy", DAY, second.run_id).state is State.rolled_back
    assert lake.storage.head(PARTITION.success) is None
    assert lake.quarantine_files("toy", DAY) == ()
    kept = list((workspace.lake / "rolled_back").rglob("*.parquet"))
    assert sorted(pq.read_metadata(path).num_rows for path in kept) == [1, 2]
    assert kinds(workspace) == set()


def test_rollback_twice_changes_nothing_more(workspace: Workspace, revised: tuple[RunRecord, RunRecord]) -> None:
    lake = lake_of(workspace)
    rollback(lake, revised[0].run_id)
    before = workspace.files()
    assert rollback(lake, revised[0].run_id).files == ()
    assert workspace.files() == before


def test_rollback_then_run_scores_those_rows_again(workspace: Workspace, revised: tuple[RunRecord, RunRecord]) -> None:
    rollback(lake_of(workspace), revised[1].run_id)
    record = workspace.complete()
    assert record.ledger is not None
    assert (record.ledger.scored.rows, record.ledger.unchanged.rows) == (2, 47)
    assert record.ledger.quarantined.rows == 1
    assert revisions(workspace, "u0") == [0, 1]
    assert workspace.run().up_to_date
    assert kinds(workspace) == set()


def test_rollback_first_run_keeps_the_later_revision(
    workspace: Workspace, revised: tuple[RunRecord, RunRecord]
) -> None:
    rollback(lake_of(workspace), revised[0].run_id)
    record = workspace.complete()
    assert record.ledger is not None
    assert (record.ledger.scored.rows, record.ledger.unchanged.rows) == (47, 2)
    assert revisions(workspace, "u0") == [1]


def test_rollback_interrupted_is_finished_by_the_next(
    workspace: Workspace, revised: tuple[RunRecord, RunRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = lake_of(workspace)
    real, calls = type(lake.storage).replace, []

    def die_at_the_first(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(type(lake.storage), "replace", die_at_the_first)
    with pytest.raises(KeyboardInterrupt):
        rollback(lake, revised[1].run_id)
    rollback(lake, revised[1].run_id)
    assert revisions(workspace, "u0") == [0]
    assert kinds(workspace) == set()


@pytest.mark.parametrize("taken_back", [0, 1])
def test_rollback_beside_a_run_is_noticed_by_it(
    workspace: Workspace,
    revised: tuple[RunRecord, RunRecord],
    monkeypatch: pytest.MonkeyPatch,
    taken_back: int,
) -> None:
    """The run has read the rows as unchanged; then they go. It must not leave the day marked without them."""
    workspace.day(table({"id": ["n1"], "a": [1.0], "b": [1.0]}), file="late.parquet")
    real, once = run.score, iter([True])

    def score_while_a_run_is_taken_back(*arguments: object) -> object:
        record = real(*arguments)  # type: ignore[arg-type]
        if next(once, False):
            rollback(lake_of(workspace), revised[taken_back].run_id)
        return record

    monkeypatch.setattr(run, "score", score_while_a_run_is_taken_back)
    record = workspace.complete()
    assert record.state is State.complete
    assert revisions(workspace, "u0") == ([0, 1] if taken_back else [1])
    assert len(workspace.stored("SELECT DISTINCT id FROM predictions WHERE id LIKE 'u%'")) == (50 if taken_back else 49)
    assert workspace.run().up_to_date


def test_rollback_while_a_run_publishes_leaves_no_mark_without_the_rows(
    workspace: Workspace, revised: tuple[RunRecord, RunRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.day(table({"id": ["n1"], "a": [1.0], "b": [1.0]}), file="late.parquet")
    ctx = workspace.context()
    record = run.score(ctx, run.plan(ctx, ctx.registry.resolve("toy", "production"), DAY))
    real, once = type(ctx.lake).write_record, iter([True])

    def write_after_a_run_is_taken_back(lake: Lake, written: RunRecord) -> None:
        if next(once, False):
            rollback(lake_of(workspace), revised[1].run_id)
        real(lake, written)

    monkeypatch.setattr(type(ctx.lake), "write_record", write_after_a_run_is_taken_back)
    assert run.commit(ctx, record).state is State.overtaken
    assert ctx.lake.storage.head(PARTITION.success) is None
    monkeypatch.undo()
    assert workspace.complete().statistics.reasons == {"changed": 2}


def test_rollback_unknown_run_says_so(workspace: Workspace) -> None:
    with pytest.raises(UsageError, match="no run is called"):
        rollback(lake_of(workspace), "20260101T000000000Z-00000000")


# Verify


def damage_page(workspace: Workspace) -> None:
    path = max(workspace.lake.rglob("part-*.parquet"), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 4] ^= 0xFF
    path.write_bytes(content)


def double_rows(workspace: Workspace) -> None:
    path = min(workspace.lake.rglob("part-*.parquet"))
    path.with_name(f"part-{len(list(path.parent.glob('part-*'))):08d}.parquet").write_bytes(path.read_bytes())


def drop_rows(workspace: Workspace) -> None:
    path = min(workspace.lake.rglob("part-*.parquet"))
    file = pq.ParquetFile(path)
    rows, says = file.read().slice(1), file.metadata.metadata
    pq.write_table(rows.replace_schema_metadata({k: v for k, v in says.items() if k.startswith(b"lakescore")}), path)


def open_gap(workspace: Workspace) -> None:
    min(workspace.lake.rglob("part-*.parquet")).unlink()


def damage_record(workspace: Workspace) -> None:
    min((workspace.lake / "runs").rglob("*.json")).write_text("{")


def damage_model(workspace: Workspace) -> None:
    next(Path(workspace.settings.models).rglob("model.pt")).write_bytes(b"other")


def leave_stranger(workspace: Workspace) -> None:
    (workspace.lake / PARTITION.folder / "notes.txt").write_text("mine")


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (damage_page, "file"),
        (double_rows, "doubled"),
        (drop_rows, "ledger"),
        (open_gap, "sequence"),
        (damage_record, "record"),
        (damage_model, "model"),
        (leave_stranger, "stranger"),
    ],
)
def test_verify_damage_is_found(
    workspace: Workspace, revised: object, damage: Callable[[Workspace], None], expected: str
) -> None:
    assert kinds(workspace) == set()
    damage(workspace)
    assert expected in kinds(workspace)


def test_verify_command_exits_3_and_repairs_a_mark_without_a_run(workspace: Workspace, lakescore: Lakescore) -> None:
    workspace.day(5)
    ctx = workspace.context()
    run.score(ctx, run.plan(ctx, ctx.registry.resolve("toy", "production"), DAY))
    mark = workspace.lake / PARTITION.success
    mark.parent.mkdir(parents=True)
    mark.touch()
    lake = ("--lake", workspace.lake)
    (found,) = json.loads(lakescore("verify", *lake, "--json", expect=3).stdout.partition("\n]\n")[0] + "\n]")
    assert (found["kind"], found["repairable"]) == ("mark", True)
    lakescore("verify", *lake, "--repair")
    assert "nothing is amiss" in lakescore("verify", *lake).stdout
    assert not mark.exists()


# Clean


def age(folder: Path, days: float) -> None:
    then = time.time() - days * 86_400
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (then, then))


def test_clean_takes_old_staging_and_leaves_the_new(workspace: Workspace) -> None:
    workspace.day(20)
    ctx = workspace.context()
    manifest = ctx.registry.resolve("toy", "production")
    old, new = (run.score(ctx, run.plan(ctx, manifest, DAY)) for _ in range(2))
    age(ctx.lake.workspace.path(staging.folder_of(old)), 8)
    (found,) = clean(ctx.lake, dry_run=True)
    assert found.where.endswith(old.run_id)
    assert len(list(workspace.lake.rglob("scored-*"))) > 0
    clean(ctx.lake)
    assert staging.files(ctx, old, "scored") == []
    assert staging.files(ctx, new, "scored") != []
    assert clean(ctx.lake) == []


def test_expire_removes_old_days_alone(workspace: Workspace) -> None:
    today = workspace.context().job.yesterday(now())
    for ds in (DAY, today):
        workspace.day(5, ds)
        workspace.run(ds)
    lake = lake_of(workspace)
    assert expire(lake, "toy", keep_days=30, dry_run=True) == [DAY]
    assert expire(lake, "toy", keep_days=30) == [DAY]
    assert lake.prediction_days("toy") == [today]
    assert len(lake.records("toy", DAY)) == 1


# Erase


def test_erase_removes_every_trace_and_names_no_key(workspace: Workspace, revised: tuple[RunRecord, RunRecord]) -> None:
    ctx = workspace.context()
    rollback(ctx.lake, revised[1].run_id)
    workspace.run()
    workspace.day(changed(table(50), "a", {0: 7.0, 2: None}))
    run.score(ctx, run.plan(ctx, ctx.registry.resolve("toy", "production"), DAY))  # and crashes: u0 is staged
    total = erase(ctx.lake, ctx.job, "u0").rows
    assert total == 4, "two revisions, a rolled back and a staged one"
    assert erase(ctx.lake, ctx.job, "u2").rows >= 3, "predicted, and in the quarantine"
    for path in workspace.lake.rglob("*.parquet"):
        if "unscored" not in path.parts:
            rows = pq.ParquetFile(path).read().to_pylist()
            assert not {"u0", "u2"} & {value for row in rows for value in row.values() if isinstance(value, str)}, path
    for path in (workspace.lake / "care").iterdir():
        assert "u0" not in path.read_text()
        assert "u2" not in path.read_text()
    assert "ledger" not in kinds(workspace)
    assert erase(ctx.lake, ctx.job, "u0").rows == 0


def test_erase_key_of_several_columns(workspace: Workspace) -> None:
    path = workspace.job() / "job.toml"
    path.write_text(path.read_text().replace('key = ["id"]', 'key = ["shop", "id"]'))
    workspace.day(pa.table({"shop": [1, 2], "id": ["a,b", "c"], "a": [1.0, 2.0], "b": [1.0, 2.0]}))
    workspace.run()
    ctx = workspace.context()
    assert erase(ctx.lake, ctx.job, "1,a").rows == 0
    assert erase(ctx.lake, ctx.job, r"1,a\,b").rows == 1
    assert [row["id"] for row in workspace.stored()] == ["c"]


def test_command_rollback_is_shown_by_status(
    workspace: Workspace, revised: tuple[RunRecord, RunRecord], lakescore: Lakescore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAKESCORE_JOBS", str(workspace.settings.jobs))
    lake = ("--lake", workspace.lake)
    assert "rolled back" in lakescore("rollback", revised[1].run_id, *lake).stdout
    (day,) = json.loads(lakescore("status", "--job", "toy", *lake, "--json").stdout)["days"]
    assert (day["state"], day["last_state"]) == ("partial", "rolled_back")
    assert "rolled back" in day["note"]
    lakescore("rollback", "nonsense", *lake, expect=2)
    lakescore("clean", *lake, "--job", "toy", "--dry-run", "--keep-days", 30)
    lakescore("erase", "u5", *lake, "--job", "toy")
