"""The commit: exactly once, whatever another run does at the same time, and only if every row adds up."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.care.rollback import rollback
from pipeline.committing.ledger import Accounts
from pipeline.context import Context
from pipeline.errors import InputChanged, LakeDamaged, LedgerImbalance, StorageError
from pipeline.lake.layout import Partition
from pipeline.lake.record_store import RecordStore
from pipeline.model.predictor import Predictor
from pipeline.records import FileInfo, RunRecord, State
from pipeline.selecting.plan import plan
from pipeline.staging import writer as parquet_writer
from pipeline.staging.adopting import is_trustworthy
from pipeline.staging.folders import staged_files, staging_folder
from pipeline.storage.parquet import read_metadata
from tests import lakes
from tests.stages import commit, scored
from tests.workspace import DAY, Workspace, changed, table

PARTITION = Partition("toy", DAY, "v1")


def staged(ctx: Context, run_id: str | None = None) -> RunRecord:
    """Plans a run and scores its rows, without commit."""
    return scored(ctx, run_id=run_id)


def listing(ctx: Context) -> dict[str, tuple[FileInfo, ...]]:
    return ctx.lake.input_files(ctx.job.patterns, DAY)


def rewrite(ctx: Context, record: RunRecord, change: object) -> None:
    (path, *_) = staged_files(ctx, record, "scored")
    rows = pq.read_table(path)
    pq.write_table(change(rows), path)  # type: ignore[operator]


def test_commit_of_a_run_that_has_nothing_to_stage_is_complete(workspace: Workspace) -> None:
    workspace.day(50)
    workspace.complete()
    workspace.day(50)  # written again, with the same rows
    ctx = workspace.context(threads=1)
    again = staged(ctx)
    assert +Counter(again.dispositions) == {"unchanged": 50}
    assert commit(ctx, again).state is State.complete


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda rows: rows.slice(1), "-1"),
        (lambda rows: pa.concat_tables([rows, rows.slice(0, 1)]), r"\+1"),
        (lambda rows: pa.concat_tables([rows.slice(1), rows.slice(1, 1)]), "other keys"),
    ],
    ids=["one row lost", "one row doubled", "one lost and one doubled"],
)
def test_commit_rows_that_do_not_add_up_are_not_committed(workspace: Workspace, damage: object, message: str) -> None:
    workspace.day(50)
    ctx = workspace.context(threads=1)
    record = staged(ctx)
    rewrite(ctx, record, damage)
    with pytest.raises(LedgerImbalance, match=message):
        commit(ctx, record)
    assert not list(workspace.lake.rglob("part-*"))
    assert ctx.lake.records.read("toy", DAY, record.run_id).state is State.failed


@pytest.mark.slow
def test_commit_changed_row_lost_is_not_taken_for_unchanged(workspace: Workspace) -> None:
    rows = table(50)
    workspace.day(rows)
    workspace.run()
    workspace.day(changed(rows, "a", {0: 5.0, 1: 5.0}))
    ctx = workspace.context(threads=1)
    record = staged(ctx)
    rewrite(ctx, record, lambda rows: rows.slice(1))
    with pytest.raises(LedgerImbalance, match="stream"):
        commit(ctx, record)


def test_commit_same_rows_by_two_runs_stores_each_once(workspace: Workspace) -> None:
    workspace.day(50)
    ctx = workspace.context()
    first, second = staged(ctx), staged(ctx)
    commit(ctx, first)
    done = commit(ctx, second)
    assert done.ledger is not None
    assert (done.ledger.scored.rows, done.ledger.unchanged.rows) == (0, 50)
    assert done.state is State.complete
    assert len(workspace.stored()) == 50


def test_commit_part_that_another_run_overwrites_is_the_fault_of_the_storage(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same rows by the other run: keys and counts add up."""
    workspace.day(50)
    ctx = workspace.context(threads=1)
    record, other = staged(ctx), staged(ctx)
    (path,) = staged_files(ctx, other, "scored")
    real = Accounts.after_commit

    def overwritten(*arguments: object) -> object:
        ctx.lake.storage.replace(PARTITION.part(0), path)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Accounts, "after_commit", overwritten)
    with pytest.raises(StorageError, match=r"overwrite a part file(?s:.)*50 rows of other runs"):
        commit(ctx, record)
    assert ctx.lake.storage.head(PARTITION.success) is None


@pytest.mark.slow
def test_commit_other_run_with_part_of_the_rows_drops_only_these(workspace: Workspace) -> None:
    rows = table(50)
    workspace.day(rows.slice(0, 20))
    ctx = workspace.context()
    first = staged(ctx)
    workspace.day(rows)
    second = staged(ctx)
    with pytest.raises(InputChanged, match="changed while"):
        commit(ctx, first)
    third = staged(ctx)
    commit(ctx, second)
    done = commit(ctx, third)
    assert done.ledger is not None
    assert done.ledger.unchanged.rows == 50
    assert len(workspace.stored()) == 50


def test_commit_overtaken_by_other_input_is_recorded_and_the_next_plan_decides(workspace: Workspace) -> None:
    rows = table(50)
    old = workspace.day(rows)
    ctx = workspace.context()
    slow = staged(ctx)
    newer = changed(rows, "a", {0: 5.0})
    workspace.day(newer)
    commit(ctx, staged(ctx))
    pq.write_table(rows, old)  # as if the slow run had read the input just before it changed
    slow = slow.with_(plan=slow.plan.model_copy(update={"input": ctx.lake.input_files(ctx.job.patterns, DAY)}))
    done = commit(ctx, slow)
    assert done.state is State.overtaken
    assert done.ledger is not None
    assert (done.ledger.scored.rows, done.ledger.unchanged.rows, done.ledger.overtaken.rows) == (0, 49, 1)
    assert done.ledger.balanced
    workspace.day(newer)
    final = workspace.complete()
    assert final.ledger is not None
    assert final.ledger.unchanged.rows == 50
    assert len(workspace.stored()) == 50


def test_commit_again_after_a_crash_recognises_its_own_files(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.day(50)
    ctx = workspace.context()
    record = staged(ctx)
    monkeypatch.setattr(RecordStore, "add", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        commit(ctx, record)
    monkeypatch.undo()
    parts = ctx.lake.parts(Partition("toy", DAY, "v1"))
    assert parts
    done = commit(ctx, record)
    assert done.committed == parts
    assert done.state is State.complete
    assert len(workspace.stored()) == 50


@pytest.fixture
def predicted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of rows of each forward pass of the model, in order."""
    rows: list[int] = []
    real = Predictor.predict_arrow

    def counting(self: Predictor, matrix: np.ndarray, batch_rows: int) -> pa.RecordBatch:
        rows.append(len(matrix))
        return real(self, matrix, batch_rows)

    monkeypatch.setattr(Predictor, "predict_arrow", counting)
    return rows


def crash(ctx: Context) -> RunRecord:
    """Leaves a run that has staged its predictions, and whose process is gone."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    record = staged(ctx).with_(pid=gone.pid)
    lakes.put_record(ctx.lake, record)
    return record


def test_run_after_a_crash_adopts_what_was_staged(workspace: Workspace, predicted: list[int]) -> None:
    rows = table(50)
    workspace.day(rows)
    crash(workspace.context())
    workspace.day(changed(rows, "a", {0: 5.0}))
    predicted.clear()
    record = workspace.complete()
    assert sum(predicted) == 1
    assert record.dispositions["adopted"] == 49
    assert record.ledger is not None
    assert record.ledger.scored.rows == 50
    assert {row["run_id"] for row in workspace.stored()} == {record.run_id}
    assert not list((workspace.lake / ".staging").rglob("*.parquet"))


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.write_bytes(content)


def alter_a_probability(path: Path) -> None:
    """Writes a valid Parquet file with another value, without the metadata that a run writes."""
    rows = pq.read_table(path)
    pq.write_table(changed(rows, "prediction_proba", {0: 0.123}), path)


def other_columns(path: Path) -> None:
    """Writes a file with the metadata that a run writes, but with another schema."""
    rows = pq.read_table(path)
    pq.write_table(rows.append_column("more", pa.array([1] * rows.num_rows)).replace_schema_metadata(None), path)
    metadata = {f"lakescore.{name}": text for name, text in saved.items()}
    with pq.ParquetWriter(path, pq.read_schema(path)) as writer:
        writer.add_key_value_metadata(metadata)
        writer.write_table(rows.append_column("more", pa.array([1] * rows.num_rows)))


saved: dict[str, str] = {}


@pytest.mark.parametrize("damage", [flip_a_byte, alter_a_probability, other_columns])
def test_run_staged_file_that_was_changed_is_not_adopted(
    workspace: Workspace, predicted: list[int], damage: Callable[[Path], None]
) -> None:
    workspace.day(50)
    ctx = workspace.context(threads=1)
    record = crash(ctx)
    (path,) = staged_files(ctx, record, "scored")
    saved.update(read_metadata(path))
    damage(path)
    predicted.clear()
    done = workspace.complete()
    assert sum(predicted) == 50
    assert done.dispositions.get("adopted", 0) == 0
    assert 0.123 not in [row["prediction_proba"] for row in workspace.stored()]


@pytest.mark.slow
@pytest.mark.parametrize("moved", [False, True])
def test_run_staged_by_another_model_is_not_adopted(workspace: Workspace, predicted: list[int], moved: bool) -> None:
    """Neither from that model's staging folder, nor, if the files are moved, from this model's."""
    workspace.day(50)
    ctx = workspace.context()
    left = crash(ctx)
    workspace.model("v2", seed=5)
    if moved:
        manifest = ctx.registry.resolve("toy", "v2")
        target = workspace.lake / staging_folder(left.with_(model=manifest.ref))
        target.parent.mkdir(parents=True)
        (workspace.lake / staging_folder(left)).rename(target)
    predicted.clear()
    record = workspace.complete()
    assert record.model.version == "v2"
    assert sum(predicted) == 50
    assert record.dispositions.get("adopted", 0) == 0


def test_run_staged_by_a_run_that_was_stopped_for_its_data_is_not_cleared_away(workspace: Workspace) -> None:
    workspace.day(50)
    ctx = workspace.context()
    left = crash(ctx)
    lakes.put_record(ctx.lake, left.with_(state=State.stopped))
    workspace.day(51)
    workspace.complete()
    assert staged_files(ctx, left, "scored")


@pytest.mark.slow
def test_commit_large_day_is_published_in_files_of_a_limited_size(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_writer, "FILE_ROWS", 1000)
    monkeypatch.setattr(parquet_writer, "GROUP_ROWS", 500)
    monkeypatch.setattr("pipeline.database.resources.BATCH_ROWS", 300)
    monkeypatch.setattr("pipeline.database.resources.BATCH_VALUES", 600)
    workspace.day(30_000)
    workspace.run(threads=1)
    *full, last = [pq.read_metadata(path).num_rows for path in sorted(workspace.lake.rglob("part-*.parquet"))]
    assert sum(full) + last == 30_000
    assert full
    assert all(1000 <= rows < 1000 + 2048 for rows in full)  # a batch is never smaller than 2,048 rows


@pytest.mark.slow
def test_plan_gap_in_the_sequence_is_damage(workspace: Workspace) -> None:
    rows = table(50)
    workspace.day(rows)
    workspace.run()
    workspace.day(changed(rows, "a", {0: 5.0}))
    workspace.run()
    first = min(workspace.lake.rglob("part-*.parquet"))
    first.unlink()
    with pytest.raises(LakeDamaged, match="missing from the sequence"):
        workspace.run()


def test_success_mark_stands_only_on_complete_partitions(workspace: Workspace) -> None:
    workspace.day(50)
    ctx = workspace.context()
    record = staged(ctx)
    mark = Path(ctx.lake.workspace.path(Partition("toy", DAY, "v1").success))
    assert not mark.exists()
    commit(ctx, record)
    assert mark.read_bytes() == b""


def test_published_file_names_its_run(workspace: Workspace) -> None:
    workspace.day(5)
    record = workspace.complete()
    (path, *_) = workspace.lake.rglob("part-*.parquet")
    found = read_metadata(path)
    assert found["run_id"] == record.run_id
    assert found["model_digest"] == record.model.digest
    assert (found["job"], found["ds"], found["model_version"]) == ("toy", DAY, "v1")


@pytest.mark.slow
def test_commit_row_left_as_it_was_but_published_by_other_input_is_overtaken(workspace: Workspace) -> None:
    """The slow run saw the newest input, with the row's first values again; the other run published older input."""
    rows = table(50)
    workspace.day(rows)
    workspace.run()
    path = workspace.day(changed(rows, "a", {0: 5.0}))
    ctx = workspace.context()
    between = staged(ctx)
    newest = pa.concat_tables([rows, table({"id": ["n"], "a": [1.0], "b": [1.0]})])
    workspace.day(newest)
    slow = staged(ctx)
    content, other = path.read_bytes(), path.with_name("other")
    pq.write_table(changed(rows, "a", {0: 5.0}), path)
    between = between.with_(plan=between.plan.model_copy(update={"input": listing(ctx)}))
    commit(ctx, between)
    other.write_bytes(content)
    other.replace(path)
    slow = slow.with_(plan=slow.plan.model_copy(update={"input": listing(ctx)}))
    done = commit(ctx, slow)
    assert done.state is State.overtaken
    assert done.ledger is not None
    assert done.ledger.balanced
    counts = done.ledger.counts()
    assert (counts["scored"], counts["unchanged"], counts["overtaken"]) == (1, 49, 1)
    workspace.complete()
    current = workspace.stored(
        "SELECT max_by(fingerprint, revision) AS f FROM predictions GROUP BY id HAVING id = 'u0'"
    )
    first = workspace.stored("SELECT fingerprint AS f FROM predictions WHERE id = 'u0' AND revision = 0")
    assert current == first, "the newest input wins in the end"


def test_commit_repeated_after_it_ended_returns_what_it_recorded(workspace: Workspace) -> None:
    workspace.day(50)
    ctx = workspace.context()
    record = staged(ctx)
    done = commit(ctx, record)
    assert commit(ctx, record) == done
    assert len(workspace.stored()) == 50


def test_commit_input_changed_during_the_commit_leaves_no_mark(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = table(50)
    workspace.day(rows)
    ctx = workspace.context()
    record = staged(ctx)
    real = type(ctx.lake.storage).create

    def create_while_the_input_changes(*arguments: object) -> object:
        workspace.day(changed(rows, "a", {0: 5.0}))
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(type(ctx.lake.storage), "create", create_while_the_input_changes)
    done = commit(ctx, record)
    assert done.state is State.superseded
    assert done.ledger is not None
    assert done.ledger.balanced
    assert ctx.lake.storage.head(Partition("toy", DAY, "v1").success) is None
    monkeypatch.undo()
    assert workspace.complete().statistics.reasons == {"changed": 1}


def test_commit_staging_cleared_by_another_run_plans_again(workspace: Workspace) -> None:
    """Between its stages, each in its own process, a run looks dead to another run that finishes the day."""
    workspace.day(50)
    ctx = workspace.context()
    slow = staged(ctx)
    gone = subprocess.Popen(["true"])
    gone.wait()
    lakes.put_record(ctx.lake, slow.with_(pid=gone.pid))
    workspace.run()
    done = commit(ctx, slow)
    assert done.state is State.superseded
    assert len(workspace.stored()) == 50


def test_run_other_run_removes_its_staging_during_adoption_adopts_all_the_same(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.day(50)
    ctx = workspace.context()
    other = staged(ctx)
    real = is_trustworthy

    def trust_and_remove(path: Path, *arguments: object) -> bool:
        trusted = real(path, *arguments)  # type: ignore[arg-type]
        for each in staged_files(ctx, other, "scored"):
            each.unlink()
        return trusted

    monkeypatch.setattr("pipeline.scoring.stage.is_trustworthy", trust_and_remove)
    done = workspace.complete()
    assert done.statistics.reasons == {"new": 50}
    assert done.dispositions["adopted"] == 50


def test_run_id_sorts_after_the_newest_whatever_the_clock_says(workspace: Workspace) -> None:
    workspace.day(50)
    ctx = workspace.context()
    ahead = "20991231T235959999Z-00000000"
    plan(ctx, DAY, ahead)
    assert workspace.complete().run_id > ahead
    assert workspace.run().up_to_date


# Each of these failed to notice a mutation of the protocol once; `tests/torture/planted.py` lists them.


def overtake(ctx: Context, record: RunRecord) -> RunRecord:
    """Commits a run as if its plan had seen the input of now, as when the input changes just after the last look."""
    seen = record.with_(plan=record.plan.model_copy(update={"input": listing(ctx)}))
    lakes.put_record(ctx.lake, seen)
    return commit(ctx, seen)


def killed_after_publishing(ctx: Context, record: RunRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(RecordStore, "add", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            commit(ctx, record)


def test_commit_that_is_killed_after_publishing_leaves_no_mark_of_before(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = table(50)
    workspace.day(rows)
    workspace.run()
    workspace.day(changed(rows, "a", {0: 5.0}))
    ctx = workspace.context()
    killed_after_publishing(ctx, staged(ctx), monkeypatch)
    assert len(ctx.lake.parts(PARTITION)) == 2
    assert ctx.lake.storage.head(PARTITION.success) is None


def test_commit_that_does_not_add_up_because_of_a_rollback_is_planned_again(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = table(50)
    workspace.day(rows)
    first = workspace.complete()
    workspace.day(changed(rows, "a", {0: 5.0}))
    ctx = workspace.context()
    record, real = staged(ctx), Accounts.before_commit

    def after_a_rollback(accounts: Accounts) -> object:
        rollback(ctx.lake, first.run_id)
        return real(accounts)

    monkeypatch.setattr(Accounts, "before_commit", after_a_rollback)
    with pytest.raises(InputChanged, match="rolled back in the meantime"):
        commit(ctx, record)


def test_commit_same_changes_by_two_runs_are_counted_once_and_both_see_all_parts(workspace: Workspace) -> None:
    rows = table(50)
    workspace.day(rows)
    workspace.run()
    workspace.day(changed(rows, "a", {0: 5.0, 1: 5.0}))
    ctx = workspace.context()
    first, second = staged(ctx), staged(ctx)
    commit(ctx, first)
    done = commit(ctx, second)
    assert done.state is State.complete
    assert done.ledger is not None
    assert (done.ledger.scored.rows, done.ledger.unchanged.rows) == (0, 50)
    assert done.parts == ctx.lake.parts(PARTITION)
    assert workspace.run().up_to_date


def test_commit_repeated_after_another_run_has_changed_its_rows_counts_them_once(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = table(50)
    path = workspace.day(rows)
    content, ctx = path.read_bytes(), workspace.context()
    slow = staged(ctx)
    killed_after_publishing(ctx, slow, monkeypatch)
    lakes.put_record(ctx.lake, slow.with_(host="elsewhere"))  # as after a kill; its staging is left alone
    workspace.day(changed(rows, "a", {0: 5.0}))
    commit(ctx, staged(ctx))
    path.unlink()
    path.write_bytes(content)
    done = overtake(ctx, slow)
    assert done.ledger is not None
    assert (done.ledger.scored.rows, done.ledger.overtaken.rows) == (50, 0)


@pytest.mark.parametrize("values", [(1.0, 5.0), (5.0, 1.0)])
def test_commit_row_published_twice_meanwhile_counts_by_its_newest_revision(
    workspace: Workspace, values: tuple[float, float]
) -> None:
    ctx = workspace.context()
    path = workspace.day({"id": ["u0"], "a": [5.0], "b": [1.0]})
    content = path.read_bytes()
    slow = staged(ctx)
    for value in values:
        workspace.day({"id": ["u0"], "a": [value], "b": [1.0]})
        commit(ctx, staged(ctx))
    path.unlink()
    path.write_bytes(content)
    done = overtake(ctx, slow)
    assert done.ledger is not None
    assert done.ledger.overtaken.rows == (1 if values[1] == 1.0 else 0)
    assert done.state is (State.overtaken if values[1] == 1.0 else State.complete)


def test_commit_row_that_is_rejected_here_and_published_meanwhile_counts_once(workspace: Workspace) -> None:
    rows = table(50)
    workspace.day(rows)
    workspace.run()
    path = workspace.day(changed(rows, "a", {0: None}))
    content, ctx = path.read_bytes(), workspace.context()
    slow = staged(ctx)
    workspace.day(changed(rows, "a", {0: 5.0}))
    commit(ctx, staged(ctx))
    path.unlink()
    path.write_bytes(content)
    done = overtake(ctx, slow)
    assert done.ledger is not None
    assert done.ledger.balanced
    assert (done.ledger.quarantined.rows, done.ledger.unchanged.rows) == (1, 49)


def test_commit_rejected_row_lost_is_not_taken_for_unchanged(workspace: Workspace) -> None:
    rows = table(50)
    workspace.day(rows)
    workspace.run()
    workspace.day(changed(rows, "a", {0: None, 1: None}))
    ctx = workspace.context(threads=1)
    record = staged(ctx)
    (path,) = staged_files(ctx, record, "rejected")
    pq.write_table(pq.read_table(path).slice(1), path)
    with pytest.raises(LedgerImbalance, match="stream"):
        commit(ctx, record)


def test_commit_under_another_version_of_duckdb_counts_the_hashes_of_the_candidates_anew(workspace: Workspace) -> None:
    workspace.day(50)
    ctx = workspace.context()
    record = staged(ctx)
    counted = record.plan.candidates.model_copy(update={"hash_sum": 1})
    done = commit(ctx, record.with_(plan=record.plan.model_copy(update={"duckdb": "1.0.0", "candidates": counted})))
    assert done.state is State.complete
    assert done.ledger is not None
    assert done.ledger.candidates.rows == 50


def test_commit_over_parts_that_another_program_has_doubled_points_to_verify(workspace: Workspace) -> None:
    rows = table(50)
    workspace.day(rows)
    workspace.run()
    folder = workspace.lake / PARTITION.folder
    (folder / "part-00000001.parquet").write_bytes((folder / "part-00000000.parquet").read_bytes())
    workspace.day(pa.concat_tables([rows, table({"id": ["n"], "a": [1.0], "b": [1.0]})]))
    with pytest.raises(LakeDamaged, match=r"50 stored rows repeat the key(?s:.)*lakescore verify"):
        workspace.run()
