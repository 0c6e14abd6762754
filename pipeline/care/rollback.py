"""Rolls back a run: its part files keep their numbers and columns, but lose their rows.

The rows are kept under `rolled_back/`. The number of a part is never freed: another run may have read the part, and a
freed number would be reused for other rows. The next run finds the keys without a prediction, or with an earlier one,
and scores them again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.care.files import TRIES, empty, keep_copy, scratch
from pipeline.errors import CommitConflict, UsageError, counted
from pipeline.lake.layout import Lake, Partition
from pipeline.lake.liveness import is_at_work
from pipeline.records import FileInfo, RunRecord, State

MARK = "rolled_back"
"""Entry in the metadata of a part file that was emptied."""


@dataclass(frozen=True)
class RolledBack:
    record: RunRecord
    files: tuple[str, ...]
    """Part files emptied by this call; none if an earlier call has emptied them."""
    before: State
    """State of the run before this call."""

    @property
    def what(self) -> str:
        """Says what was done, in words."""
        count = len(self.files)
        if count:
            return f"{counted(count, 'file')} emptied; `lakescore run` scores those rows again"
        if self.before is State.rolled_back:
            return "an earlier call had emptied its files; nothing was left to do"
        return "it had published no rows, so predictions stay as they were"


def rollback(lake: Lake, run_id: str) -> RolledBack:
    """Can be repeated, also after a crash. Raises UsageError if the run is unknown or still active."""
    record = lake.records.find(run_id)
    if is_at_work(lake, record) and record.pid != os.getpid():
        raise UsageError(
            f"run {run_id} is still active",
            got=f"process {record.pid}",
            next_step="wait until it ends, or stop it first",
        )
    partition = Partition.of(record)
    lake.storage.delete(partition.success)
    with scratch(lake) as folder:
        parts = [part.path for part in lake.parts(partition)]
        emptied = [path for path in parts if empty(lake, path, folder, MARK, run_id, _kept(path, run_id))]
        _move(lake, f"quarantine/job={record.job}/ds={record.ds}/{run_id}.parquet", run_id, folder)
    # A run that finished in the meantime may have marked the day; one that finishes later sees the emptied files.
    lake.storage.delete(partition.success)
    done = lake.records.change(record, lambda stored: stored.with_(state=State.rolled_back))
    return RolledBack(done, tuple(emptied), record.state)


def _move(lake: Lake, key: str, run_id: str, folder: Path) -> None:
    for _ in range(TRIES):
        if (seen := lake.storage.head(key)) is None:
            return
        if keep_copy(lake, seen, _kept(key, run_id), folder):
            lake.storage.delete(key)
            return
    raise CommitConflict("other processes keep replacing a file", where=lake.storage.where(key), next_step="run again")


def kept_files(lake: Lake, job: str, ds: str) -> list[FileInfo]:
    """Returns the files that rollbacks of a day have kept."""
    folders = (f"rolled_back/{top}/job={job}/ds={ds}" for top in ("predictions", "quarantine"))
    return [file for folder in folders for file in lake.storage.files(folder)]


def interrupted(lake: Lake, records: Sequence[RunRecord]) -> set[str]:
    """Returns the ids of those runs of a day whose rollback has begun, but has not ended."""
    open_ones = [each for each in records if each.state is not State.rolled_back and each.expired_at is None]
    if not open_ones:
        return set()
    begun = {file.path.split("/")[-2] for file in kept_files(lake, open_ones[0].job, open_ones[0].ds)}
    return begun & {record.run_id for record in open_ones}


def _kept(key: str, run_id: str) -> str:
    folder, _, name = key.rpartition("/")
    return f"rolled_back/{folder}/{run_id}/{name}"
