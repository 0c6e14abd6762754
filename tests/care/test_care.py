"""Rollback and clean, on lakes written by real runs."""

from __future__ import annotations

import importlib
import os
import time
import uuid
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.care.clean import clean
from pipeline.care.files import empty, keep_copy, scratch
from pipeline.care.rollback import rollback
from pipeline.care.verify import verify
from pipeline.committing.ledger import Accounts
from pipeline.errors import RunEnded, UsageError
from pipeline.flow import single_stage
from pipeline.lake.layout import Lake, Partition
from pipeline.lake.record_store import RecordStore
from pipeline.records import Addition, RunRecord, State
from pipeline.scoring import stage as scoring
from pipeline.staging.folders import staged_files, staging_folder
from tests.s3 import BUCKET, S3Server
from tests.stages import commit, scored
from tests.workspace import DAY, Workspace, table

PARTITION = Partition("toy", DAY, "v1")


def lake_of(workspace: Workspace) -> Lake:
    return workspace.context().lake


def kinds(workspace: Workspace) -> set[str]:
    ctx = workspace.context()
    return {finding.kind for finding in verify(ctx.lake, ctx.registry)}


def revisions(workspace: Workspace, key: str) -> list[int]:
    query = f"SELECT revision FROM predictions WHERE id = '{key}' ORDER BY revision"
    return [row["revision"] for row in workspace.stored(query)]


# Rollback


def test_rollback_of_the_newest_run_restores_the_previous_revision(
    workspace: Workspace, revised: tuple[RunRecord, RunRecord]
) -> None:
    _, second = revised
    lake = lake_of(workspace)
    before = [file.path for file in lake.parts(PARTITION)]
    done = rollback(lake, second.run_id)
    assert done.files == tuple(file.path for file in second.committed)
    assert [file.path for file in lake.parts(PARTITION)] == before, "no part number is freed"
    assert revisions(workspace, "u0") == [0]
    assert lake.records.read("toy", DAY, second.run_id).state is State.rolled_back
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


@pytest.mark.parametrize("call", range(1, 5))
def test_rollback_after_an_interruption_completes(
    workspace: Workspace, revised: tuple[RunRecord, RunRecord], monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """The calls: a copy of the part, the part without rows, a copy of the quarantine, the record."""
    lake, run = lake_of(workspace), revised[1].run_id
    real, calls = type(lake.storage).update, []

    def interrupted(*arguments: object) -> object:
        calls.append(arguments)
        done = real(*arguments) if len(calls) < call else None  # type: ignore[arg-type]
        if done is None:
            raise KeyboardInterrupt
        return done

    with monkeypatch.context() as patch:
        patch.setattr(type(lake.storage), "update", interrupted)
        with pytest.raises(KeyboardInterrupt):
            rollback(lake, run)
    found = [(each.kind, each.what) for each in verify(lake)]
    assert found == ([("rollback", f"its rollback has not ended: repeat `lakescore rollback {run}`")] * (call > 1))
    rollback(lake, run)
    assert len(calls) == call
    assert revisions(workspace, "u0") == [0]
    assert kinds(workspace) == set()


@pytest.mark.slow
@pytest.mark.parametrize("rolled_back", [0, 1])
def test_rollback_beside_a_run_is_noticed_by_it(
    workspace: Workspace,
    revised: tuple[RunRecord, RunRecord],
    monkeypatch: pytest.MonkeyPatch,
    rolled_back: int,
) -> None:
    """The run has read the rows as unchanged before the rollback. It must not mark the day complete without them."""
    workspace.day(table({"id": ["n1"], "a": [1.0], "b": [1.0]}), file="late.parquet")
    real, once = scoring.score, iter([True])

    def score_while_a_run_is_rolled_back(*arguments: object) -> object:
        record = real(*arguments)  # type: ignore[arg-type]
        if next(once, False):
            rollback(lake_of(workspace), revised[rolled_back].run_id)
        return record

    monkeypatch.setattr(scoring, "score", score_while_a_run_is_rolled_back)
    record = workspace.complete()
    assert record.state is State.complete
    assert revisions(workspace, "u0") == ([0, 1] if rolled_back else [1])
    assert len(workspace.stored("SELECT DISTINCT id FROM predictions WHERE id LIKE 'u%'")) == (
        50 if rolled_back else 49
    )
    assert workspace.run().up_to_date


@pytest.mark.slow
def test_rollback_while_a_run_publishes_leaves_no_mark_without_the_rows(
    workspace: Workspace, revised: tuple[RunRecord, RunRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.day(table({"id": ["n1"], "a": [1.0], "b": [1.0]}), file="late.parquet")
    ctx = workspace.context()
    record = scored(ctx)
    real, once = RecordStore.add, iter([True])

    def add_after_a_run_is_rolled_back(store: RecordStore, run: RunRecord, addition: Addition) -> RunRecord:
        if next(once, False):
            rollback(lake_of(workspace), revised[1].run_id)
        return real(store, run, addition)

    monkeypatch.setattr(RecordStore, "add", add_after_a_run_is_rolled_back)
    assert commit(ctx, record).state is State.overtaken
    assert ctx.lake.storage.head(PARTITION.success) is None
    monkeypatch.undo()
    assert workspace.complete().statistics.reasons == {"changed": 2}


@pytest.mark.parametrize(("module", "name"), [("report.pages", "write_run"), ("drift.stage", "compare")])
@pytest.mark.parametrize("fails", [False, True])
def test_rollback_beside_a_stage_after_the_commit_stays(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, module: str, name: str, fails: bool
) -> None:
    """The run is rolled back while the report or drift stage, which adds to its record, is active."""
    workspace.day(50)
    lake, home = lake_of(workspace), importlib.import_module(f"pipeline.{module}")
    real = getattr(home, name)

    def work_while_the_run_is_rolled_back(*arguments: object) -> object:
        done = real(*arguments)
        rollback(lake, lake.records.newest_id("toy", DAY))
        if fails:
            raise ZeroDivisionError
        return done

    monkeypatch.setattr(home, name, work_while_the_run_is_rolled_back)
    record = workspace.run().record
    assert record is not None
    assert record.state is State.rolled_back
    assert lake.records.read("toy", DAY, record.run_id).state is State.rolled_back
    assert bool(record.warnings) is fails
    assert workspace.stored() == []


@pytest.mark.parametrize("name", ["plan", "validate_input", "score", "validate_output", "profile", "commit"])
def test_stage_repeated_after_a_rollback_begins_a_new_run(workspace: Workspace, name: str) -> None:
    workspace.day(50)
    first = workspace.complete()
    ctx = workspace.context()
    rollback(ctx.lake, first.run_id)
    found = single_stage.run_task(ctx, name, DAY, first.run_id)
    assert found["run_id"] > first.run_id
    assert ctx.lake.records.read("toy", DAY, first.run_id).state is State.rolled_back
    assert len(workspace.stored()) == (50 if name == "commit" else 0)


@pytest.mark.parametrize("name", ["drift", "report"])
def test_stage_after_the_commit_repeated_after_a_rollback_scores_nothing(workspace: Workspace, name: str) -> None:
    workspace.day(50)
    first = workspace.complete()
    ctx = workspace.context()
    rollback(ctx.lake, first.run_id)
    found = single_stage.run_task(ctx, name, DAY, first.run_id)
    assert (found["run_id"], found["state"]) == (first.run_id, "rolled_back")
    assert workspace.stored() == []


def test_rollback_between_two_stages_of_a_run_that_has_published_nothing_ends_that_run(workspace: Workspace) -> None:
    workspace.day(50)
    ctx, run_id = workspace.context(), None
    for name in ("plan", "score"):
        run_id = single_stage.run_task(ctx, name, DAY, run_id)["run_id"]
    assert run_id is not None
    done = rollback(ctx.lake, run_id)
    assert (done.before, done.files, done.record.state) == (State.scored, (), State.rolled_back)
    found = single_stage.run_task(ctx, "commit", DAY, run_id)
    assert (found["run_id"] > run_id, found["state"]) == (True, "complete")
    assert {row["run_id"] for row in workspace.stored()} == {found["run_id"]}
    assert len(workspace.stored()) == 50
    assert ctx.lake.records.read("toy", DAY, run_id).state is State.rolled_back
    assert kinds(workspace) == set()


@pytest.mark.slow
@pytest.mark.parametrize("published", [False, True])
def test_commit_of_a_run_that_was_rolled_back_ends(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, published: bool
) -> None:
    """For example, rolled back from another machine, where the run does not count as active."""
    workspace.day(50)
    ctx = workspace.context()
    record, real = scored(ctx), Accounts.withdrawn

    def count_while_the_run_is_rolled_back(*arguments: object) -> object:
        rollback(ctx.lake, record.run_id)
        return real(*arguments)  # type: ignore[arg-type]

    if published:
        monkeypatch.setattr(Accounts, "withdrawn", count_while_the_run_is_rolled_back)
    else:
        rollback(ctx.lake, record.run_id)
    with pytest.raises(RunEnded, match="has ended as rolled_back"):
        commit(ctx, record)
    assert ctx.lake.records.read("toy", DAY, record.run_id).state is State.rolled_back
    parts = (workspace.lake / PARTITION.folder).glob("part-*.parquet")
    assert [pq.read_metadata(path).num_rows for path in parts] == [0] * published
    assert ctx.lake.storage.head(PARTITION.success) is None
    monkeypatch.undo()
    assert workspace.complete().statistics.reasons == {"new": 50}


@pytest.mark.slow
def test_rollback_removes_a_mark_that_is_set_while_it_empties_files(
    workspace: Workspace, revised: tuple[RunRecord, RunRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a run that had looked at the files before they were emptied."""
    lake, real = lake_of(workspace), empty

    def empty_then_mark(*arguments: object) -> bool:
        done = real(*arguments)  # type: ignore[arg-type]
        lake.storage.write(PARTITION.success, b"")
        return done

    monkeypatch.setattr("pipeline.care.rollback.empty", empty_then_mark)
    rollback(lake, revised[1].run_id)
    assert lake.storage.head(PARTITION.success) is None


@pytest.mark.parametrize("place", ["disk", pytest.param("bucket", marks=pytest.mark.slow)])
def test_copy_of_a_file_that_has_changed_or_is_gone_is_none(
    workspace: Workspace, place: str, request: pytest.FixtureRequest
) -> None:
    if place == "bucket":
        request.getfixturevalue("s3")
    lake = Lake.open(str(workspace.lake) if place == "disk" else f"s3://{BUCKET}/{uuid.uuid4().hex}/lake")
    lake.storage.write("kept/x", b"1")
    seen = lake.storage.head("kept/x")
    assert seen is not None
    with scratch(lake) as folder:
        assert keep_copy(lake, seen, "rolled_back/x", folder)
        assert lake.storage.read("rolled_back/x") == b"1"
        lake.storage.write("kept/x", b"2")
        assert not keep_copy(lake, seen, "rolled_back/x", folder)
        lake.storage.delete("kept/x")
        assert not keep_copy(lake, seen, "rolled_back/x", folder)


def test_rollback_unknown_run_says_so(workspace: Workspace) -> None:
    with pytest.raises(UsageError, match="no run is called"):
        rollback(lake_of(workspace), "20260101T000000000Z-00000000")


# Clean


def age(folder: Path, days: float) -> None:
    then = time.time() - days * 86_400
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (then, then))


def test_clean_removes_old_staging_and_keeps_new(workspace: Workspace) -> None:
    workspace.day(20)
    ctx = workspace.context()
    old, new = (scored(ctx) for _ in range(2))
    age(ctx.lake.workspace.path(staging_folder(old)), 8)
    (found,) = clean(ctx.lake, dry_run=True)
    assert found.where.endswith(old.run_id)
    assert len(list(workspace.lake.rglob("scored-*"))) > 0
    clean(ctx.lake)
    assert staged_files(ctx, old, "scored") == []
    assert staged_files(ctx, new, "scored") != []
    assert clean(ctx.lake) == []


@pytest.mark.slow
def test_clean_removes_what_a_cluster_has_left_in_the_bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = Lake.open(f"s3://{BUCKET}/{uuid.uuid4().hex}/lake")
    storage = lake.storage
    run = ".staging/job=toy/ds=2026-01-01/model_version=v1/a-b/run1"
    storage.write(f"{run}/attempts/bucket-00000-a/result.json", b"{}")
    storage.write(f"{run}/split-a/input.parquet", b"1234")
    assert clean(lake, older_than_days=0.5) == []
    now = time.time()
    monkeypatch.setattr("pipeline.care.clean.time.time", lambda: now + 2 * 86_400)
    (found,) = clean(lake, older_than_days=1, dry_run=True)
    assert (found.where, found.bytes) == (storage.where(run), 6)
    assert len(storage.files(".staging")) == 2
    assert len(clean(lake, older_than_days=1)) == 1
    assert storage.files(".staging") == []
