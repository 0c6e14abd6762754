"""Publishes staged files under the next free part numbers, without a lock. The protocol: docs/commit.md.

After the base that the plan has read, every number is looked up by name, so no row that another run has published can
be missed; a file is created only if its number is free.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.context import Context
from pipeline.database import sql_files
from pipeline.database.connection import translated_errors
from pipeline.errors import CommitUnknown, StorageError
from pipeline.lake.layout import Partition
from pipeline.records import FileInfo, RunRecord
from pipeline.selecting.triage import WITHDRAWN
from pipeline.selecting.views import Selection, select
from pipeline.staging.folders import REST, attempts_folder, staging_folder
from pipeline.staging.rows import rejected_schema
from pipeline.staging.writer import GROUP_ROWS, read_batches, write_file
from pipeline.storage import digest_of
from pipeline.storage.parquet import read_metadata, read_schema

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

TRIES = 5
"""Number of attempts at one part number whose outcome stays unknown, after which publishing fails."""
LOOKS = 8
"""Number of attempts at a part number that is taken although no file can be seen there; then publishing fails."""
PAUSE_S = 0.05
"""Seconds before the third such attempt; each further pause is twice as long, 3 s in all."""


@dataclass
class Publication:
    """One pass over the numbers after the base: notes the files of other runs, and gives ours the free numbers."""

    ctx: Context
    record: RunRecord
    selected: Selection
    own: list[FileInfo] = field(default_factory=list)
    withdrawn: list[FileInfo] = field(default_factory=list)
    """Those of `own` whose rows mark withdrawn keys."""
    others: list[str] = field(default_factory=list)
    """Paths of the files that other runs have published since the plan."""
    foreign: list[str] = field(default_factory=list)
    """Those of `others` with predictions of another model of the same version."""
    seen: list[FileInfo] = field(default_factory=list)

    def publish(self, staged: Sequence[Path]) -> Publication:
        storage = self.ctx.lake.storage
        partition = self.selected.partition
        self._note_digests(staged)
        pending = deque((path, 0) for path in staged)
        number, unknown, unseen = self.record.plan.next_part, 0, 0
        while True:
            if (found := storage.head(partition.part(number))) is not None:
                self._note(found, pending)
                number, unknown, unseen = number + 1, 0, 0
                continue
            if not pending:
                return self
            path, seen = pending[0]
            if seen < len(self.others):
                pending.popleft()
                if (rest := self._without_others(path)) is not None:
                    self._note_digests([rest])
                    pending.appendleft((rest, len(self.others)))
                continue
            try:
                created = self._publish(path, partition.part(number))
            except FileExistsError:  # taken since the lookup: the next iteration notes it
                unseen += 1
                self._wait_until_seen(partition.part(number), unseen)
                continue
            except CommitUnknown:
                unknown += 1
                if unknown == TRIES:
                    raise
                continue  # the next iteration finds out whether it exists, and which run wrote it
            self._add(created, path.name.removeprefix(REST))
            self.seen.append(created)
            pending.popleft()
            number, unknown, unseen = number + 1, 0, 0

    def _publish(self, path: Path, key: str) -> FileInfo:
        """Creates a part: by a copy in the object store, if a task of the run has left the file there."""
        source = self._in_bucket.get(path.name)
        storage = self.ctx.lake.storage
        return storage.create(key, path) if source is None else storage.copy(source, key)

    @cached_property
    def _in_bucket(self) -> dict[str, str]:
        """The keys, by name, of the files that tasks have left in the object store; their names are unique.

        Empty if the store does not copy as it must: then they are uploaded from here.
        """
        if self.ctx.lake.is_local:
            return {}
        files = self.ctx.lake.storage.files(attempts_folder(self.record))
        if files:
            try:
                self.ctx.lake.storage.probe_copy()
            except StorageError as error:
                log.info("the files of the run are uploaded once more instead of copied: %s", error.what)
                return {}
        return {file.path.rpartition("/")[2]: file.path for file in files}

    def _note_digests(self, paths: Sequence[Path]) -> None:
        """Stores the digests of files in the record, before any is published: `verify` compares them with the parts."""
        found = {path.name.removeprefix(REST): digest_of(path) for path in paths}
        self.ctx.lake.records.change(self.record, lambda stored: stored.with_digests(found))

    def _wait_until_seen(self, part: str, times: int) -> None:
        """Waits before the next look at a part that exists, but was not seen so far. Raises CommitUnknown at last."""
        if times == LOOKS:
            raise CommitUnknown(
                "the name of a part is taken, but no file can be seen there",
                where=self.ctx.lake.storage.where(part),
                expected="no such name, or a part file",
                got="a folder, a link that leads nowhere, or an outdated answer of a network file system",
                next_step="look at what is there, and remove it if it is no part file; then run again",
            )
        if times > 1:
            time.sleep(PAUSE_S * 2 ** (times - 2))

    def _note(self, found: FileInfo, pending: deque[tuple[Path, int]]) -> None:
        """Notes a published file: this run's, from an earlier attempt, or another run's."""
        self.seen.append(found)
        with self.ctx.lake.storage.open(found.path) as file:
            metadata = read_metadata(file)
        if metadata.get("run_id") != self.record.run_id:
            self.others.append(self.ctx.lake.storage.where(found.path))
            if metadata.get("model_digest") != self.record.model.digest:
                self.foreign.append(self.others[-1])
            return
        name = metadata.get("staged", "")
        self._add(found, name)
        for entry in [entry for entry in pending if entry[0].name.removeprefix(REST) == name]:
            pending.remove(entry)

    def _add(self, file: FileInfo, staged_name: str) -> None:
        self.own.append(file)
        if staged_name.startswith(f"{WITHDRAWN}-"):
            self.withdrawn.append(file)

    def _without_others(self, path: Path) -> Path | None:
        """Writes the rows of a staged file whose keys no other run has published; returns None if there are none."""
        name = path.name.removeprefix(REST)
        original = path.with_name(name)
        schema = read_schema(original)
        self.selected.stored_view("meanwhile", self.others)
        self.selected.stored_view("rest", [str(original)], schema.names)
        with translated_errors(original):
            query = self.selected.con.sql(sql_files.load("committing/not_meanwhile"))
            with query.to_arrow_reader(GROUP_ROWS) as batches:
                return write_file(path.with_name(REST + name), schema, batches, self.record, name)


def publish_quarantine(ctx: Context, record: RunRecord, rejected: Sequence[Path]) -> None:
    """Publishes the rejected rows as one file; without such rows, an empty one if the day has a quarantine file."""
    lake = ctx.lake
    key = f"quarantine/job={record.job}/ds={record.ds}/{record.run_id}.parquet"
    if lake.storage.head(key) or not (rejected or lake.quarantine_files(record.job, record.ds)):
        return
    schema = read_schema(rejected[0]) if rejected else _schema_of_rejected(ctx, record)
    batches = (batch for path in rejected for batch in read_batches(path))
    merged = lake.workspace.path(f"{staging_folder(record)}/quarantine.parquet")
    write_file(merged, schema, batches, record, merged.name, even_if_empty=True)
    with suppress(FileExistsError):  # published by the same run in another process
        lake.storage.create(key, merged)


def _schema_of_rejected(ctx: Context, record: RunRecord) -> pa.Schema:
    """Returns the schema of a run's rejected rows, if it has staged none."""
    plan = record.plan
    with select(ctx, plan, Partition.of(record)) as selected:
        return rejected_schema(selected.schema, dict.fromkeys((*plan.key, *plan.carry, *plan.features)))
