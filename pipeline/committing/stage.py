"""Publishes what a run has staged, exactly once, without a lock. The protocol and its reasons: docs/commit.md.

The ledger must add up (`ledger.py`); then the files are published (`publication.py`), the ledger is computed again over
what is committed, and the record and the mark say that the partition is complete.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from duckdb import ColumnExpression

from pipeline.committing.ledger import Accounts
from pipeline.committing.publication import Publication, publish_quarantine
from pipeline.context import Context, peak_memory_bytes, timed
from pipeline.errors import InputChanged, LakeDamaged, LedgerImbalance, RunEnded
from pipeline.lake.layout import Partition
from pipeline.lake.record_store import NEXT
from pipeline.records import Addition, FileInfo, RunRecord, State, now, same_files
from pipeline.selecting.input import check_input_unchanged, stored_paths
from pipeline.selecting.triage import WITHDRAWN
from pipeline.selecting.views import Selection, select
from pipeline.staging.folders import discard_staging, staged_files, staging_folder

OVER = {State.complete, State.overtaken, State.superseded}
"""The states that this stage sets: if it is repeated in one of them, it does only what comes after setting it."""


def commit(ctx: Context, record: RunRecord) -> Addition:
    """Stage: publishes staged rows and quarantine, if the ledger adds up before and after.

    The record is changed here, after publishing and before the mark is written: to `complete`, or to `overtaken` if
    another run has published rows from other input since the plan. If the input changes during the commit, the run
    becomes `superseded`. After the last two, only a new plan can tell which rows are newer. Can be repeated after a
    crash: it recognises what is already published. Raises InputChanged, LedgerImbalance, RunEnded if the run was
    stopped or rolled back, or an error of the storage.
    """
    lake, partition = ctx.lake, Partition.of(record)
    stored = lake.records.read(record.job, record.ds, record.run_id)
    if stored.state in OVER:
        settle(ctx, stored)
        return Addition()
    if State.complete not in NEXT[stored.state]:
        raise RunEnded(f"run {record.run_id} of {record.ds} has ended as {stored.state}", next_step="run again")
    if _staging_is_gone(ctx, record):
        lake.records.end(record, State.superseded, "the staged files of the run are gone")
        return Addition()
    check_input_unchanged(ctx, record.plan, record.ds)
    with timed("commit") as clock, select(ctx, record.plan, partition, features=False) as selected:
        with _base_unchanged(ctx, record, selected):
            staged = staged_files(ctx, record, "scored")
            rejected = staged_files(ctx, record, "rejected")
            withdrawing = staged_files(ctx, record, WITHDRAWN)
            accounts = Accounts(selected, record, _texts(staged), _texts(rejected), _texts(withdrawing))
            before = accounts.before_commit()
            lake.prepare()
            if staged or withdrawing:
                lake.storage.delete(partition.success)
            published = Publication(ctx, record, selected).publish([*staged, *withdrawing])
            scored = [file for file in published.own if file not in published.withdrawn]
            after = accounts.after_commit(before, stored_paths(ctx, scored), published.others, published.foreign)
            marked, overtaken = accounts.marked(stored_paths(ctx, published.withdrawn))
            statistics = accounts.statistics()
            withdrawn = accounts.withdrawn(after)
            publish_quarantine(ctx, record, rejected)
        clock.rows = after.scored.rows
    done: dict[str, object] = {
        "state": State.overtaken if after.overtaken.rows or overtaken.rows else State.complete,
        "ledger": after,
        "withdrawn": withdrawn,
        "marked": marked,
        "statistics": statistics,
        "committed": tuple(published.own),
        "parts": (*record.plan.base, *published.seen),
        "quarantine": lake.quarantine_files(record.job, record.ds),
        "error": None,
        "finished_at": now(),
    }
    addition = Addition(done, stages=(clock.report,), peak_memory_bytes=peak_memory_bytes())
    mark(ctx, lake.records.add(record, addition))
    return Addition()


def settle(ctx: Context, record: RunRecord) -> RunRecord:
    """Ends the commit of a run whose record says that it is over, if the process ended before the commit did.

    Marks the partition, unless a newer run has begun there since, and removes what was staged. Returns the record,
    which then says `superseded` or `overtaken` if the plan no longer holds.
    """
    lake = ctx.lake
    left = bool(lake.workspace.files(staging_folder(record)))  # removed last
    if lake.records.newest_id(record.job, record.ds) != record.run_id:
        if left:
            discard_staging(ctx, record)
        return record
    if not left and lake.storage.head(Partition.of(record).success) is not None:
        return record
    return mark(ctx, record)


def mark(ctx: Context, done: RunRecord) -> RunRecord:
    """Marks the partition as complete if its files and the input are unchanged, and removes what the run has staged.

    Returns the record as stored afterwards.
    """
    lake, partition = ctx.lake, Partition.of(done)
    if done.state is State.complete:
        lake.storage.write(partition.success, b"")
        # Checked only now: a rollback that last removed the mark before this write has already replaced its files.
        if lake.parts(partition)[: len(done.parts)] != done.parts:
            done = _unmark(ctx, done, State.overtaken)
        elif not same_files(done.plan.input, lake.input_files(ctx.job.patterns, done.ds)):
            done = _unmark(ctx, done, State.superseded)
    discard_staging(ctx, done)
    return done


def _unmark(ctx: Context, done: RunRecord, state: State) -> RunRecord:
    """Removes the mark, and sets the state that says why, unless the run has been rolled back in the meantime."""
    ctx.lake.storage.delete(Partition.of(done).success)
    return ctx.lake.records.change(
        done, lambda stored: stored.with_(state=state) if stored.state is State.complete else stored
    )


def _staging_is_gone(ctx: Context, record: RunRecord) -> bool:
    """Tells whether a run has no staged files although it counted rows.

    Another run has finished the day and removed staging that looked dead, or the rows were staged on another machine.
    """
    expected = sum(record.dispositions.get(kind, 0) for kind in ("scored", "quarantined", WITHDRAWN))
    return bool(expected) and not ctx.lake.workspace.files(staging_folder(record))


@contextmanager
def _base_unchanged(ctx: Context, record: RunRecord, selected: Selection) -> Iterator[None]:
    """Raises InputChanged if a rollback has replaced files that the plan has read.

    Checked at the start, and again if the ledger does not add up: then the rollback is the cause. Or the base itself
    has rows twice: then this raises LakeDamaged.
    """
    base, partition = record.plan.base, selected.partition

    def check() -> None:
        if ctx.lake.parts(partition)[: len(base)] != base:
            raise InputChanged("a run was rolled back in the meantime", where=partition.folder, next_step="run again")

    check()
    try:
        yield
    except LedgerImbalance as error:
        check()
        if doubled := _doubled(ctx, base, selected):
            raise LakeDamaged(
                f"{doubled:,} stored rows repeat the key and revision of another row; nothing can be added to them",
                where=ctx.lake.storage.where(partition.folder),
                next_step="lakescore verify names the files; a copy that another program has left there must go",
            ) from error
        raise


def _doubled(ctx: Context, base: Sequence[FileInfo], selected: Selection) -> int:
    """Returns how many rows of these files repeat the key and revision of another one."""
    selected.stored_view("stored_rows", stored_paths(ctx, base), ["revision"])
    rows = selected.con.view("stored_rows").select(ColumnExpression("__key"), ColumnExpression("revision"))
    counted = [each.aggregate("count(*)").fetchall()[0][0] for each in (rows, rows.distinct())]
    return int(counted[0] - counted[1])


def _texts(paths: Sequence[Path]) -> list[str]:
    return [str(path) for path in paths]
