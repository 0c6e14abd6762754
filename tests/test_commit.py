"""The commit: exactly once, whatever another run does meanwhile, and only if every row adds up."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import run, staging
from pipeline.context import Context
from pipeline.errors import CommitUnknown, LakeDamaged, LedgerImbalance
from pipeline.lake import Partition
from pipeline.model.predictor import Predictor
from pipeline.records import FileInfo, RunRecord, State
from tests.workspace import DAY, Workspace, changed, table


def staged(ctx: Context, run_id: str | None = None) -> RunRecord:
    """Plans and scores, without commit."""
    manifest = ctx.registry.resolve("toy", "production")
    return run.score(ctx, run.plan(ctx, manifest, DAY, run_id))


def listing(ctx: Context) -> dict[str, tuple[FileInfo, ...]]:
    return ctx.lake.input_files(ctx.job.input.patterns, DAY)


def rewrite(ctx: Context, record: RunRecord, change: object) -> None:
    (path, *_) = staging.files(ctx, record, "scored")
    rows = pq.read_table(path)
    pq.write_table(change(rows), path)  # type: ignore[operator]


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
        run.commit(ctx, record)
    assert not list(workspace.lake.rglob("part-*"))
    assert ctx.lake.read_record("toy", DAY, record.run_id).state is State.failed


def test_commit_changed_row_lost_is_not_taken_for_unchanged(workspace: Workspace) -> None:
    rows = table(50)
    workspace.day(rows)
    workspace.run()
    workspace.day(changed(rows, "a", {0: 5.0, 1: 5.0}))
    ctx = workspace.context(threads=1)
    record = staged(ctx)
    rewrite(ctx, record, lambda rows: rows.slice(1))
    with pytest.raises(LedgerImbalance, match="stream"):
        run.commit(ctx, record)


def test_commit_same_rows_by_two_runs_stores_each_once(workspace: Workspace) -> None:
    workspace.day(50)
    ctx = workspace.context()
    first, second = staged(ctx), staged(ctx)
    run.commit(ctx, first)
    done = run.commit(ctx, second)
    assert done.ledger is not None
    assert (done.ledger.scored.rows, done.ledger.unchanged.rows) == (0, 50)
    assert done.state is State.complete
    assert len(workspace.stored()) == 50


def test_commit_other_run_with_part_of_the_rows_drops_only_these(workspace: Workspace) -> None:
    rows = table(50)
    workspace.day(rows.slice(0, 20))
    ctx = workspace.context()
    first = staged(ctx)
    workspace.day(rows)
    second = staged(ctx)
    with pytest.raises(Exception, match="changed while"):
        run.commit(ctx, first)
    third = staged(ctx)
    run.commit(ctx, second)
    done = run.commit(ctx, third)
    assert done.ledger is not None
    assert done.ledger.unchanged.rows == 50
    assert len(workspace.stored()) == 50


def test_commit_overtaken_by_other_input_is_told_and_the_next_plan_decides(workspace: Workspace) -> None:
    rows = table(50)
    old = workspace.day(rows)
    ctx = workspace.context()
    slow = staged(ctx)
    newer = changed(rows, "a", {0: 5.0})
    workspace.day(newer)
    run.commit(ctx, staged(ctx))
    pq.write_table(rows, old)  # as if the slow run had looked at the input just before it changed
    slow = slow.with_(plan=slow.plan.model_copy(update={"input": ctx.lake.input_files(ctx.job.input.patterns, DAY)}))
    done = run.commit(ctx, slow)
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
    monkeypatch.setattr(type(ctx.lake), "write_record", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run.commit(ctx, record)
    monkeypatch.undo()
    parts = ctx.lake.parts(Partition("toy", DAY, "v1"))
    assert parts
    done = run.commit(ctx, record)
    assert done.committed == parts
    assert done.state is State.complete
    assert len(workspace.stored()) == 50


def test_run_after_a_crash_adopts_what_was_staged(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = table(50)
    workspace.day(rows)
    ctx = workspace.context()
    gone = subprocess.Popen(["true"])
    gone.wait()
    crashed = staged(ctx).with_(pid=gone.pid)
    ctx.lake.write_record(crashed)
    workspace.day(changed(rows, "a", {0: 5.0}))
    predicted = []
    real = Predictor.predict_arrow

    def counting(self: Predictor, matrix: np.ndarray, batch_rows: int) -> pa.RecordBatch:
        predicted.append(len(matrix))
        return real(self, matrix, batch_rows)

    monkeypatch.setattr(Predictor, "predict_arrow", counting)
    record = workspace.complete()
    assert sum(predicted) == 1
    assert record.ledger is not None
    assert record.ledger.scored.rows == 50
    assert {row["run_id"] for row in workspace.stored()} == {record.run_id}
    assert not list((workspace.lake / ".staging").rglob("*"))


def test_run_damaged_staged_file_is_not_adopted(workspace: Workspace) -> None:
    workspace.day(50)
    ctx = workspace.context()
    crashed = staged(ctx)
    for path in staging.files(ctx, crashed, "scored"):
        content = bytearray(path.read_bytes())
        content[len(content) // 3] ^= 0xFF
        path.write_bytes(content)
    record = workspace.complete()
    assert record.ledger is not None
    assert record.ledger.scored.rows == 50


def test_run_staged_by_another_model_is_not_adopted(workspace: Workspace) -> None:
    workspace.day(50)
    staged(workspace.context())
    workspace.model("v2", seed=5)
    record = workspace.complete()
    probabilities = {row["id"]: row["prediction_proba"] for row in workspace.stored()}
    assert record.model.version == "v2"
    assert len(probabilities) == 50


def test_commit_large_day_splits_into_files_of_about_a_million_rows(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "FILE_ROWS", 1000)
    monkeypatch.setattr(staging, "GROUP_ROWS", 500)
    monkeypatch.setattr("pipeline.scoring.BATCH_ROWS", 300)
    monkeypatch.setattr("pipeline.scoring.BATCH_VALUES", 600)
    workspace.day(30_000)
    workspace.run()
    sizes = [pq.read_metadata(path).num_rows for path in workspace.lake.rglob("part-*.parquet")]
    assert sum(sizes) == 30_000
    assert len(sizes) >= 2


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
    run.commit(ctx, record)
    assert mark.read_bytes() == b""


def test_published_file_says_whose_it_is(workspace: Workspace) -> None:
    workspace.day(5)
    record = workspace.complete()
    (path, *_) = workspace.lake.rglob("part-*.parquet")
    found = staging.read_metadata(path)
    assert found["run_id"] == record.run_id
    assert found["model_digest"] == record.model.digest
    assert (found["job"], found["ds"], found["model_version"]) == ("toy", DAY, "v1")


def test_commit_row_left_as_it_was_but_published_by_other_input_is_overtaken(workspace: Workspace) -> None:
    """The slow run saw newer input, in which the row is as it was first; the other one published the input between."""
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
    run.commit(ctx, between)
    other.write_bytes(content)
    other.replace(path)
    slow = slow.with_(plan=slow.plan.model_copy(update={"input": listing(ctx)}))
    done = run.commit(ctx, slow)
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
    done = run.commit(ctx, record)
    assert run.commit(ctx, record) == done
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
    done = run.commit(ctx, record)
    assert done.state is State.superseded
    assert done.ledger is not None
    assert done.ledger.balanced
    assert ctx.lake.storage.head(Partition("toy", DAY, "v1").success) is None
    monkeypatch.undo()
    assert workspace.complete().statistics.reasons == {"changed": 1}


def test_commit_staging_cleared_by_another_run_plans_again(workspace: Workspace) -> None:
    """Between its stages, each a process of its own, a run looks dead to another one that finishes the day."""
    workspace.day(50)
    ctx = workspace.context()
    slow = staged(ctx)
    gone = subprocess.Popen(["true"])
    gone.wait()
    ctx.lake.write_record(slow.with_(pid=gone.pid))
    workspace.run()
    done = run.commit(ctx, slow)
    assert done.state is State.superseded
    assert len(workspace.stored()) == 50


def test_commit_lost_answer_is_looked_at_before_it_is_tried_again(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.day(50)
    ctx = workspace.context()
    record = staged(ctx)
    real, lost = type(ctx.lake.storage).create, iter([True])

    def create_and_lose_the_answer(*arguments: object) -> object:
        made = real(*arguments)  # type: ignore[arg-type]
        if next(lost, False):
            raise CommitUnknown("no telling")
        return made

    monkeypatch.setattr(type(ctx.lake.storage), "create", create_and_lose_the_answer)
    done = run.commit(ctx, record)
    assert done.state is State.complete
    assert len(workspace.stored()) == 50


def test_run_other_run_removes_its_staging_meanwhile_adopts_all_the_same(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.day(50)
    ctx = workspace.context()
    other = staged(ctx)
    real = staging.is_trustworthy

    def trust_and_remove(path: Path, *arguments: object) -> bool:
        trusted = real(path, *arguments)  # type: ignore[arg-type]
        for each in staging.files(ctx, other, "scored"):
            each.unlink()
        return trusted

    monkeypatch.setattr(staging, "is_trustworthy", trust_and_remove)
    assert workspace.complete().statistics.reasons == {"new": 50}


def test_run_id_sorts_after_the_newest_whatever_the_clock_says(workspace: Workspace) -> None:
    workspace.day(50)
    ctx = workspace.context()
    ahead = "20991231T235959999Z-00000000"
    run.plan(ctx, ctx.registry.resolve("toy", "production"), DAY, ahead)
    assert workspace.complete().run_id > ahead
    assert workspace.run().up_to_date
