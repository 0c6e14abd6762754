"""Publishes what a run has staged, exactly once, without a lock. The protocol and its reasons: docs/commit.md.

The data file is its own log record: `part-<number>.parquet` is created only if its number is free, and from the base
that the plan has read onwards every number is opened by name, so no row that another run published can be missed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import database, ledger, queries, selection, staging, unscored
from pipeline.context import Context, peak_memory_bytes, timed
from pipeline.errors import CommitUnknown, InputChanged, LedgerImbalance
from pipeline.lake import Partition
from pipeline.predictions import rejected_schema
from pipeline.records import FileInfo, RunRecord, State, now

if TYPE_CHECKING:
    from pipeline.selection import Selection

TRIES = 5
"""How often a number is tried after answers of the storage were lost."""
OVER = {State.complete, State.overtaken, State.superseded, State.rolled_back}


def commit(ctx: Context, record: RunRecord) -> RunRecord:
    """The stage: publishes staged rows and quarantine, if the ledger adds up before and after.

    Returns a record that is complete; or overtaken, if another run has published rows from other input meanwhile, or
    superseded, if the input has changed: then a new plan must tell what is newer. Can be repeated after a crash: what
    is published already is recognised. Raises InputChanged, LedgerImbalance, or what the storage raises.
    """
    lake, partition = ctx.lake, Partition(record.job, record.ds, record.model.version)
    stored = lake.read_record(record.job, record.ds, record.run_id)
    if stored.ledger is not None and stored.state in OVER:
        return _settle(ctx, stored)
    if _staging_is_gone(ctx, record):
        return _gone(ctx, record)
    unscored.check_input_unchanged(ctx, record.plan, record.ds)
    with timed("commit") as clock, selection.select(ctx, record.plan, partition) as selected:
        with _base_unchanged(ctx, record, partition):
            staged = staging.files(ctx, record, "scored")
            rejected = staging.files(ctx, record, "rejected")
            before = ledger.before_commit(selected, record, _texts(staged), _texts(rejected))
            lake.prepare()
            if staged:
                lake.storage.delete(partition.success)
            published = _Publication(ctx, record, selected).publish(staged)
            paths = [lake.storage.where(file.path) for file in published.own]
            after = ledger.after_commit(selected, record, before, paths, published.others)
            found = ledger.statistics(selected, paths)
            withdrawn = ledger.withdrawn_after(selected, after, found, published.others)
            _publish_quarantine(ctx, record, selected, rejected)
        clock.rows = after.scored.rows
    done = record.with_(
        state=State.overtaken if after.overtaken.rows else State.complete,
        ledger=after,
        withdrawn=withdrawn,
        statistics=found,
        committed=tuple(published.own),
        parts=(*record.plan.base, *published.seen),
        quarantine=lake.quarantine_files(record.job, record.ds),
        stages=(*record.stages, clock.report),
        peak_memory_bytes=max(record.peak_memory_bytes, peak_memory_bytes()),
        finished_at=now(),
    )
    lake.write_record(done)
    return _settle(ctx, done)


def _settle(ctx: Context, done: RunRecord) -> RunRecord:
    """Marks the partition if nothing has moved beneath the run, and removes what it staged."""
    lake, partition = ctx.lake, Partition(done.job, done.ds, done.model.version)
    if done.state is State.complete:
        lake.storage.write(partition.success, b"")
        # Only now: a rollback that removes the mark before this line has replaced its files before it, too.
        if lake.parts(partition)[: len(done.parts)] != done.parts:
            done = done.with_(state=State.overtaken)
        elif lake.input_files(ctx.job.input.patterns, done.ds) != done.plan.input:
            done = done.with_(state=State.superseded)
        if done.state is not State.complete:
            lake.storage.delete(partition.success)
            lake.write_record(done)
    staging.discard(ctx, done)
    return done


def _staging_is_gone(ctx: Context, record: RunRecord) -> bool:
    """Tells whether a run has nothing staged although it counted rows.

    Another run has finished the day and cleared away what looked dead, or the rows were staged on another machine.
    """
    expected = record.dispositions.get("scored", 0) + record.dispositions.get("quarantined", 0)
    return bool(expected) and not ctx.lake.workspace.files(staging.folder_of(record))


def _gone(ctx: Context, record: RunRecord) -> RunRecord:
    lost = record.with_(state=State.superseded, error="what the run had staged is gone", finished_at=now())
    ctx.lake.write_record(lost)
    return lost


@contextmanager
def _base_unchanged(ctx: Context, record: RunRecord, partition: Partition) -> Iterator[None]:
    """Raises InputChanged if a rollback has replaced files that the plan has read.

    Asked before, and again if the ledger does not add up: that is no fault of the run then.
    """

    def check() -> None:
        if ctx.lake.parts(partition)[: len(record.plan.base)] != record.plan.base:
            raise InputChanged("a run was rolled back meanwhile", where=partition.folder, next_step="run again")

    check()
    try:
        yield
    except LedgerImbalance:
        check()
        raise


@dataclass
class _Publication:
    """One pass from the base onwards: files of other runs are noted, ours take the free numbers."""

    ctx: Context
    record: RunRecord
    selected: Selection
    own: list[FileInfo] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    seen: list[FileInfo] = field(default_factory=list)

    def publish(self, staged: Sequence[Path]) -> _Publication:
        storage = self.ctx.lake.storage
        partition = self.selected.partition
        pending = deque((path, 0) for path in staged)
        number, unknown = self.record.plan.next_part, 0
        while True:
            if (found := storage.head(partition.part(number))) is not None:
                self._note(found, pending)
                number += 1
                continue
            if not pending:
                return self
            path, seen = pending[0]
            if seen < len(self.others):
                pending.popleft()
                if (rest := self._without_others(path)) is not None:
                    pending.appendleft((rest, len(self.others)))
                continue
            try:
                created = storage.create(partition.part(number), path)
            except FileExistsError:
                continue  # taken since we looked: it is noted in the next turn
            except CommitUnknown:
                unknown += 1
                if unknown == TRIES:
                    raise
                continue  # the next turn sees whether it is there, and whose it is
            self.own.append(created)
            self.seen.append(created)
            pending.popleft()
            number += 1

    def _note(self, found: FileInfo, pending: deque[tuple[Path, int]]) -> None:
        """Notes a published file: ours from an attempt before this one, or another run's."""
        self.seen.append(found)
        with self.ctx.lake.storage.open(found.path) as file:
            metadata = staging.read_metadata(file)
        if metadata.get("run_id") != self.record.run_id:
            self.others.append(self.ctx.lake.storage.where(found.path))
            return
        self.own.append(found)
        name = metadata.get("staged")
        for entry in [entry for entry in pending if entry[0].name.removeprefix(staging.REST) == name]:
            pending.remove(entry)

    def _without_others(self, path: Path) -> Path | None:
        """Writes the rows of a staged file whose keys no other run has published; returns None if there are none."""
        name = path.name.removeprefix(staging.REST)
        original = path.with_name(name)
        schema = staging.schema_of(original)
        self.selected.stored_view("meanwhile", self.others)
        self.selected.stored_view("rest", [str(original)], schema.names)
        with database.explained(original):
            query = self.selected.con.sql(queries.load("select/not_meanwhile"))
            with query.to_arrow_reader(staging.GROUP_ROWS) as batches:
                return staging.write_one(path.with_name(staging.REST + name), schema, batches, self.record, name)


def _publish_quarantine(ctx: Context, record: RunRecord, selected: Selection, rejected: Sequence[Path]) -> None:
    """Publishes the rejected rows as one file; a file without rows if there were some before and now none."""
    lake = ctx.lake
    key = f"quarantine/job={record.job}/ds={record.ds}/{record.run_id}.parquet"
    if lake.storage.head(key) or not (rejected or lake.quarantine_files(record.job, record.ds)):
        return
    plan = record.plan
    schema = rejected_schema(selected.schema, dict.fromkeys((*plan.key, *plan.carry, *plan.features)))
    batches = (batch for path in rejected for batch in staging.batches_of(path))
    merged = lake.workspace.path(f"{staging.folder_of(record)}/quarantine.parquet")
    staging.write_one(merged, schema, batches, record, merged.name, even_if_empty=True)
    with suppress(FileExistsError):  # the same run, in another process
        lake.storage.create(key, merged)


def _texts(paths: Sequence[Path]) -> list[str]:
    return [str(path) for path in paths]
