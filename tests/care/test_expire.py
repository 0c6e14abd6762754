"""Expiry: old days lose their rows, whatever runs at the same time, and begin anew if they are run again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.care import expire as module
from pipeline.care.expire import expire
from pipeline.care.files import empty
from pipeline.care.rollback import rollback
from pipeline.care.verify import verify
from pipeline.errors import UsageError
from pipeline.lake.layout import Partition
from pipeline.records import State, now
from tests.stages import commit, scored
from tests.workspace import DAY, Workspace, changed, table

PARTITION = Partition("toy", DAY, "v1")


def problems(workspace: Workspace) -> list[str]:
    return [f"{finding.kind}: {finding.what}" for finding in verify(workspace.context().lake)]


@pytest.mark.slow
def test_expire_removes_the_rows_of_old_days_alone(workspace: Workspace) -> None:
    job = workspace.context().job
    today = job.last_due(now()).ds
    for ds in (DAY, today):
        workspace.day(changed(table(5), "a", {0: None}), ds)
        workspace.run(ds)
    lake = workspace.context().lake
    before = workspace.files()
    assert expire(lake, job, keep_days=30, dry_run=True) == [DAY]
    assert workspace.files() == before
    assert expire(lake, job, keep_days=30) == [DAY]
    assert {row["ds"] for row in workspace.stored("SELECT ds::VARCHAR AS ds FROM predictions")} == {today}
    assert lake.quarantine_files("toy", DAY) == ()
    assert lake.storage.head(PARTITION.success) is None
    assert len(lake.quarantine_files("toy", today)) == 1
    assert len(lake.records.of_day("toy", DAY)) == 1
    assert problems(workspace) == []
    assert expire(lake, job, keep_days=30) == []
    with pytest.raises(UsageError, match="at least one day"):
        expire(lake, job, keep_days=0)


def test_expire_removes_what_a_rollback_has_kept(workspace: Workspace) -> None:
    workspace.day(5)
    ctx = workspace.context()
    rollback(ctx.lake, workspace.complete().run_id)
    assert expire(ctx.lake, ctx.job, keep_days=1) == [DAY]
    assert ctx.lake.storage.files("rolled_back") == []
    assert problems(workspace) == []


@pytest.mark.slow
def test_run_after_the_expiry_begins_anew(workspace: Workspace) -> None:
    rows = table(5)
    workspace.day(rows)
    workspace.run()
    workspace.day(changed(rows, "a", {0: 5.0}))
    workspace.run()
    ctx = workspace.context()
    expire(ctx.lake, ctx.job, keep_days=1)
    assert workspace.complete().statistics.reasons == {"new": 5}
    assert [row["revision"] for row in workspace.stored()] == [0] * 5
    assert problems(workspace) == []
    assert workspace.run().up_to_date


@pytest.mark.slow
@pytest.mark.parametrize("published", [False, True])
def test_expire_beside_a_run_is_noticed_by_it(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, published: bool
) -> None:
    """A run from another machine publishes before, or while, the day loses its rows."""
    rows = table(5)
    workspace.day(rows)
    workspace.run()
    workspace.day(changed(rows, "a", {0: 5.0}))
    ctx = workspace.context()
    record = scored(ctx)
    elsewhere = ctx.lake.records.change(record, lambda stored: stored.with_(host="elsewhere"))
    real, once = empty, iter([True])

    def empty_while_it_commits(*arguments: object) -> bool:
        if next(once, False):
            commit(ctx, elsewhere)
        return real(*arguments)  # type: ignore[arg-type]

    if published:
        monkeypatch.setattr(module, "empty", empty_while_it_commits)
    assert expire(ctx.lake, ctx.job, keep_days=1) == [DAY]
    if not published:
        assert workspace.complete().run_id > record.run_id
    assert ctx.lake.parts(PARTITION)[1:], "without a gap"
    assert problems(workspace) == []
    if published:
        assert ctx.lake.storage.head(PARTITION.success) is None
        assert {row["id"] for row in workspace.stored()} == {"u0"}, "what was published meanwhile goes the next time"
        assert expire(ctx.lake, ctx.job, keep_days=1) == [DAY]
        assert workspace.stored() == []
        assert problems(workspace) == []
    assert workspace.complete().state is State.complete
    assert len({row["id"] for row in workspace.stored()}) == 5


def test_expire_leaves_a_day_with_an_active_run_for_the_next_time(workspace: Workspace) -> None:
    workspace.day(5)
    workspace.run()
    workspace.day(6)
    ctx = workspace.context()
    record = scored(ctx)
    assert expire(ctx.lake, ctx.job, keep_days=1) == []
    commit(ctx, record)
    assert expire(ctx.lake, ctx.job, keep_days=1) == [DAY]


@pytest.mark.slow
def test_expire_that_is_interrupted_is_noticed_and_a_repetition_ends_it(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.day(5)
    workspace.run()
    ctx = workspace.context()

    def die(*_: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "empty", die)
    with pytest.raises(KeyboardInterrupt):
        expire(ctx.lake, ctx.job, keep_days=1)
    monkeypatch.undo()
    (found,) = problems(workspace)
    assert "expired, but still has 5 rows" in found
    assert expire(ctx.lake, ctx.job, keep_days=1) == [DAY]
    assert problems(workspace) == []


@pytest.mark.slow
def test_expire_settles_days_whose_folders_an_earlier_version_removed(workspace: Workspace) -> None:
    workspace.day(5)
    workspace.run()
    ctx = workspace.context()
    remove: Callable[[Path], None] = Path.unlink
    for path in list((workspace.lake / PARTITION.folder).iterdir()):
        remove(path)
    assert [found.partition(":")[0] for found in problems(workspace)] == ["lost"]
    assert expire(ctx.lake, ctx.job, keep_days=1) == [DAY]
    assert problems(workspace) == []


@pytest.mark.slow
def test_expired_part_keeps_columns_and_metadata(workspace: Workspace) -> None:
    workspace.day(5)
    workspace.run()
    ctx = workspace.context()
    path = workspace.lake / PARTITION.part(0)
    before = pq.read_schema(path)
    expire(ctx.lake, ctx.job, keep_days=1)
    assert pq.read_schema(path).names == before.names
    assert pq.read_metadata(path).num_rows == 0
