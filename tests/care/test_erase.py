"""Erasing a key: every trace, whatever else happens at the same time, and noticed if it was interrupted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.care import erase as module
from pipeline.care import erasures
from pipeline.care.erase import erase
from pipeline.care.files import scratch
from pipeline.care.rollback import rollback
from pipeline.care.verify import verify
from pipeline.errors import CommitConflict, UsageError
from pipeline.lake.layout import Partition
from pipeline.records import FileInfo, RunRecord, State
from pipeline.storage import LocalStorage
from pipeline.storage.parquet import PREFIX
from tests.lakes import put_record
from tests.selecting.test_imported import csv, job_of, write
from tests.stages import commit, scored
from tests.workspace import DAY, Workspace, changed, table

PARTITION = Partition("toy", DAY, "v1")


@pytest.fixture
def before_each_update(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[str], None]], None]:
    """Calls a function with the key of each file that is to be replaced under a condition, just before it is."""
    real = LocalStorage.update

    def install(what: Callable[[str], None]) -> None:
        def update(storage: LocalStorage, key: str, content: bytes | Path, seen: FileInfo | None) -> bool:
            what(key)
            return real(storage, key, content, seen)

        monkeypatch.setattr(LocalStorage, "update", update)

    return install


def problems(workspace: Workspace) -> set[str]:
    return {finding.kind for finding in verify(workspace.context().lake)}


def keys(workspace: Workspace) -> set[str]:
    """Returns every value of a column of text in every file but the input."""
    found = set()
    for path in workspace.lake.rglob("*.parquet"):
        if "unscored" not in path.parts:
            rows = pq.ParquetFile(path).read().to_pylist()
            found |= {value for row in rows for value in row.values() if isinstance(value, str)}
    return found


@pytest.mark.slow
def test_erase_removes_every_trace_and_names_no_key(workspace: Workspace, revised: tuple[RunRecord, RunRecord]) -> None:
    ctx = workspace.context()
    rollback(ctx.lake, revised[1].run_id)
    workspace.run()
    workspace.day(changed(table(50), "a", {0: 7.0, 2: None}))
    scored(ctx)  # never committed, as after a crash: u0 stays staged
    total = erase(ctx.lake, ctx.job, "u0").rows
    assert total == 4, "two revisions, one rolled-back row and one staged row"
    assert erase(ctx.lake, ctx.job, "u2").rows >= 2, "predicted and quarantined"
    assert not {"u0", "u2"} & keys(workspace)
    for path in (workspace.lake / "care").iterdir():
        assert "u0" not in path.read_text()
        assert "u2" not in path.read_text()
    assert problems(workspace) == set()
    assert erase(ctx.lake, ctx.job, "u0").files == ()


@pytest.mark.slow
def test_erase_key_of_several_columns(workspace: Workspace) -> None:
    path = workspace.job() / "job.toml"
    path.write_text(path.read_text().replace('key = ["id"]', 'key = ["shop", "id"]'))
    workspace.day(pa.table({"shop": [1, 2], "id": ["a,b", "c"], "a": [1.0, 2.0], "b": [1.0, 2.0]}))
    workspace.run()
    ctx = workspace.context()
    for partial in ("1", "c", "1,a,b"):
        with pytest.raises(UsageError, match="the key has 2 columns"):
            erase(ctx.lake, ctx.job, partial)
    assert erase(ctx.lake, ctx.job, "1,a").files == ()
    assert erase(ctx.lake, ctx.job, r"1,a\,b").rows == 1
    assert [row["id"] for row in workspace.stored()] == ["c"]


@pytest.mark.slow
def test_erase_keeps_rows_whose_key_is_null(workspace: Workspace) -> None:
    workspace.day({"id": ["u0", None, "u1"], "a": [None, 1.0, None], "b": [1.0, 1.0, 1.0]})
    workspace.run()
    ctx = workspace.context()
    (file,) = ctx.lake.quarantine_files("toy", DAY)
    assert erase(ctx.lake, ctx.job, "u0").rows == 1
    assert sorted(pq.read_table(workspace.lake / file.path).column("id").to_pylist(), key=str) == [None, "u1"]


@pytest.mark.slow
def test_erase_dry_run_tells_and_changes_nothing(workspace: Workspace, revised: object) -> None:
    ctx, before = workspace.context(), workspace.files()
    told = erase(ctx.lake, ctx.job, "u0", dry_run=True)
    assert told.rows == 2
    assert workspace.files() == before
    assert erase(ctx.lake, ctx.job, "u0").files == told.files


@pytest.mark.slow
def test_erase_is_recorded_with_its_key_until_it_has_ended(
    workspace: Workspace, revised: object, before_each_update: Callable[[Callable[[str], None]], None]
) -> None:
    ctx, records = workspace.context(), set[tuple[str | None, int]]()
    before_each_update(lambda _: records.update((e.key, len(e.files)) for e in erasures.unfinished(ctx.lake)))
    done = erase(ctx.lake, ctx.job, "u0")
    assert records == {("u0", 2)}, "all files are recorded before the first is changed"
    assert list(erasures.unfinished(ctx.lake)) == []
    assert done.finished_at is not None
    assert done.key is None


@pytest.mark.slow
@pytest.mark.parametrize("writes", [0, 1, 3])
def test_erase_that_is_interrupted_is_noticed_and_a_repetition_ends_it(
    workspace: Workspace,
    revised: object,
    monkeypatch: pytest.MonkeyPatch,
    before_each_update: Callable[[Callable[[str], None]], None],
    writes: int,
) -> None:
    ctx, left = workspace.context(), iter([True] * writes)

    def die(_: str) -> None:
        if not next(left, False):
            raise KeyboardInterrupt

    before_each_update(die)
    with pytest.raises(KeyboardInterrupt):
        erase(ctx.lake, ctx.job, "u0")
    monkeypatch.undo()
    assert problems(workspace) == {"erasure"}, "nothing else is wrong, whichever files are done"
    assert erase(ctx.lake, ctx.job, "u0").rows > 0
    assert problems(workspace) == set()
    assert "u0" not in keys(workspace)
    assert "u0" not in "".join(path.read_text() for path in (workspace.lake / "care").iterdir())


@pytest.mark.slow
def test_erase_two_keys_at_once_brings_none_back(
    workspace: Workspace, revised: object, before_each_update: Callable[[Callable[[str], None]], None]
) -> None:
    ctx, once = workspace.context(), iter([True])

    def erase_another(key: str) -> None:
        if key.startswith("predictions/") and next(once, False):
            assert erase(ctx.lake, ctx.job, "u1").rows == 2

    before_each_update(erase_another)
    assert erase(ctx.lake, ctx.job, "u0").rows == 2
    assert not {"u0", "u1"} & keys(workspace)
    assert problems(workspace) == set()


@pytest.mark.slow
def test_erase_beside_a_rollback_undoes_none_of_it(
    workspace: Workspace,
    revised: tuple[RunRecord, RunRecord],
    before_each_update: Callable[[Callable[[str], None]], None],
) -> None:
    ctx, once = workspace.context(), iter([True])

    def roll_back(key: str) -> None:
        if key.startswith("predictions/") and next(once, False):
            rollback(ctx.lake, revised[0].run_id)

    before_each_update(roll_back)
    erase(ctx.lake, ctx.job, "u0")
    assert ctx.lake.records.read("toy", DAY, revised[0].run_id).state is State.rolled_back
    assert {row["run_id"] for row in workspace.stored()} == {revised[1].run_id}
    assert "u0" not in keys(workspace), "neither in the parts, nor in the files that the rollback has kept"
    assert problems(workspace) == set()


@pytest.mark.slow
def test_rollback_beside_an_erasure_keeps_no_row_of_it(
    workspace: Workspace,
    revised: tuple[RunRecord, RunRecord],
    before_each_update: Callable[[Callable[[str], None]], None],
) -> None:
    ctx, once = workspace.context(), iter([True])

    def erase_a_key(key: str) -> None:
        if key.startswith("predictions/") and next(once, False):
            erase(ctx.lake, ctx.job, "u0")

    before_each_update(erase_a_key)
    rollback(ctx.lake, revised[0].run_id)
    assert {row["run_id"] for row in workspace.stored()} == {revised[1].run_id}
    assert "u0" not in keys(workspace)
    assert problems(workspace) == set()


def test_erase_while_a_run_waits_between_two_stages_ends_that_run(workspace: Workspace) -> None:
    workspace.day(50)
    ctx = workspace.context()
    waiting = scored(ctx)
    assert erase(ctx.lake, ctx.job, "u0").rows == 1
    assert commit(ctx, waiting).state is State.superseded
    assert ctx.lake.parts(PARTITION) == ()
    assert len(workspace.complete().committed) > 0


@pytest.mark.slow
def test_erase_removes_what_a_killed_process_left_in_its_scratch_folder(workspace: Workspace, revised: object) -> None:
    ctx, gone = workspace.context(), subprocess.Popen(["true"])
    gone.wait()
    with scratch(ctx.lake) as active:
        dead = active.with_name(active.name.replace(f"-{os.getpid()}-", f"-{gone.pid}-"))
        shutil.copytree(workspace.lake / PARTITION.folder, dead)
        erase(ctx.lake, ctx.job, "u0")
        assert active.is_dir()
    assert not dead.exists()
    assert "u0" not in keys(workspace)


@pytest.mark.slow
def test_erase_while_others_keep_adding_the_key_is_a_conflict(
    workspace: Workspace, revised: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = workspace.context()
    monkeypatch.setattr(module, "_remove", lambda *_: None)
    with pytest.raises(CommitConflict, match="keep adding the key"):
        erase(ctx.lake, ctx.job, "u0")
    assert problems(workspace) == {"erasure"}


def test_erase_file_that_is_removed_after_it_was_listed_is_no_trace(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.day(changed(table(5), "a", {0: None}))
    workspace.run()
    ctx, real = workspace.context(), LocalStorage.files

    def files(storage: LocalStorage, prefix: str) -> list[FileInfo]:
        found = real(storage, prefix)
        for file in found if prefix == "quarantine/job=toy" else ():
            storage.delete(file.path)
        return found

    assert [file.rows for file in erase(ctx.lake, ctx.job, "u0", dry_run=True).files] == [1]
    monkeypatch.setattr(LocalStorage, "files", files)
    assert erase(ctx.lake, ctx.job, "u0").files == ()


def test_erasure_that_an_earlier_version_recorded_counts_for_verify(workspace: Workspace) -> None:
    """Then the file does not say itself how many rows were erased from it, and run records have no digests."""
    workspace.day(5)
    record, ctx = workspace.complete(), workspace.context()
    erase(ctx.lake, ctx.job, "u0")
    (path,) = (workspace.lake / PARTITION.folder).glob("part-*.parquet")
    file = pq.ParquetFile(path)
    says = {name: value for name, value in file.metadata.metadata.items() if not name.endswith(b"erased")}
    assert len(says) < len(file.metadata.metadata)
    rows = file.read().replace_schema_metadata({k: v for k, v in says.items() if k.startswith(PREFIX.encode())})
    pq.write_table(rows, path)
    put_record(ctx.lake, record.with_(digests={}))
    (of_erasure,) = (workspace.lake / "care").iterdir()
    written = json.loads(of_erasure.read_text())
    del written["format"]
    of_erasure.write_text(json.dumps(written))
    assert problems(workspace) == set()
    of_erasure.unlink()
    assert problems(workspace) == {"ledger"}


def test_erase_removes_the_copy_of_text_with_the_key_as_a_whole(workspace: Workspace) -> None:
    job_of(workspace)
    write(workspace, csv())
    workspace.run()
    ctx = workspace.context()
    (copy,) = ctx.lake.imported_files("toy", DAY)
    done = erase(ctx.lake, ctx.job, "u3")
    assert [(file.rows, file.run_id) for file in done.files if file.folder.startswith("imported/")] == [(1, "")]
    assert ctx.lake.storage.head(copy.path) is None
    assert len(workspace.stored()) == 9
