"""Publishes what a run has staged, exactly once, without a lock. The protocol and its reasons: docs/commit.md.

The data file is its own log record: `part-<number>.parquet` is created only if its number is free, and from the base
that the plan has read onwards every number is opened by name, so no row that another run published can be missed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import database, ledger, queries, selection, staging
from pipeline.context import Context, peak_memory_bytes, timed
from pipeline.lake import Partition
from pipeline.predictions import rejected_schema
from pipeline.records import FileInfo, RunRecord, State, now

if TYPE_CHECKING:
    from pipeline.selection import Selection


def commit(ctx: Context, record: RunRecord) -> RunRecord:
    """The stage: publishes staged rows and quarantine, if the ledger adds up before and after.

    Returns a record that is complete, or overtaken: then another run has published rows from other input meanwhile, and
    a new plan must tell which is newer. Can be repeated after a crash: what is published already is recognised.
    Raises InputChanged, LedgerImbalance, or what the storage raises.
    """
    lake, partition = ctx.lake, Partition(record.job, record.ds, record.model.version)
    selection.check_input_unchanged(ctx, record.plan, record.ds)
    with timed("commit") as clock, selection.select(ctx, record.plan, partition) as selected:
        staged = staging.files(ctx, record, "scored")
        rejected = staging.files(ctx, record, "rejected")
        before = ledger.before_commit(selected, record, _texts(staged), _texts(rejected))
        lake.prepare()
        if staged:
            lake.storage.delete(partition.success)
        published = _Publication(ctx, record, selected).publish(staged)
        paths = [str(lake.storage.path(file.path)) for file in published.own]
        after = ledger.after_commit(selected, record, before, paths, _texts(published.others))
        found = ledger.statistics(selected, paths)
        _publish_quarantine(ctx, record, selected, rejected)
        clock.rows = after.scored.rows
    done = record.with_(
        state=State.overtaken if after.overtaken.rows else State.complete,
        ledger=after,
        statistics=found,
        committed=tuple(published.own),
        parts=(*record.plan.base, *published.seen),
        quarantine=lake.quarantine_files(record.job, record.ds),
        stages=(*record.stages, clock.report),
        peak_memory_bytes=max(record.peak_memory_bytes, peak_memory_bytes()),
        finished_at=now(),
    )
    lake.write_record(done)
    if done.state is State.complete:
        lake.storage.write(partition.success, b"")
    staging.discard(ctx, done)
    return done


@dataclass
class _Publication:
    """One pass from the base onwards: files of other runs are noted, ours take the free numbers."""

    ctx: Context
    record: RunRecord
    selected: Selection
    own: list[FileInfo] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    seen: list[FileInfo] = field(default_factory=list)

    def publish(self, staged: Sequence[Path]) -> _Publication:
        storage = self.ctx.lake.storage
        partition = self.selected.partition
        pending = deque((path, 0) for path in staged)
        number = self.record.plan.next_part
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
            self.own.append(created)
            self.seen.append(created)
            pending.popleft()
            number += 1

    def _note(self, found: FileInfo, pending: deque[tuple[Path, int]]) -> None:
        """Notes a published file: ours from an attempt before this one, or another run's."""
        self.seen.append(found)
        path = self.ctx.lake.storage.path(found.path)
        metadata = staging.read_metadata(path)
        if metadata.get("run_id") != self.record.run_id:
            self.others.append(path)
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
        self.selected.stored_view("meanwhile", _texts(self.others))
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
    merged = lake.storage.path(f"{staging.folder_of(record)}/quarantine.parquet")
    staging.write_one(merged, schema, batches, record, merged.name, even_if_empty=True)
    lake.storage.create(key, merged)


def _texts(paths: Sequence[Path]) -> list[str]:
    return [str(path) for path in paths]
