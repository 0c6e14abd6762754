"""Takes back what a run published. Its files keep their numbers and columns, but lose their rows.

The rows stay under `rolled_back/`. A number is never freed: another run may have read it, and a freed one would be
taken by other rows. The next run finds the keys without a prediction, or with the one before, and scores them again.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from pipeline.care.files import keep_copy, metadata_of, rewrite, scratch
from pipeline.errors import UsageError
from pipeline.lake import Lake, Partition
from pipeline.records import RunRecord, State

RUN, MARK = b"lakescore.run_id", b"lakescore.rolled_back"


@dataclass(frozen=True)
class RolledBack:
    record: RunRecord
    files: tuple[str, ...]
    """The part files that were emptied now; none if that was done before."""


def rollback(lake: Lake, run_id: str) -> RolledBack:
    """Can be repeated, also after a crash. Raises UsageError if there is no such run, or if it is still at work."""
    record = lake.find_record(run_id)
    if is_alive(record):
        raise UsageError(
            f"run {run_id} is still at work",
            got=f"process {record.pid}",
            next_step="wait, or end it first",
        )
    partition = Partition(record.job, record.ds, record.model.version)
    emptied = []
    lake.storage.delete(partition.success)
    with scratch(lake) as folder:
        for part in lake.parts(partition):
            metadata = metadata_of(lake, part.path)
            if metadata.get(RUN) == run_id.encode() and MARK not in metadata:
                keep_copy(lake, part.path, _kept(part.path, run_id), folder)
                rewrite(lake, part.path, folder, extra={MARK: b"true"})
                emptied.append(part.path)
        quarantine = f"quarantine/job={record.job}/ds={record.ds}/{run_id}.parquet"
        if lake.storage.head(quarantine) is not None:
            keep_copy(lake, quarantine, _kept(quarantine, run_id), folder)
            lake.storage.delete(quarantine)
    # A run that had finished meanwhile may have marked the day; one that finishes later sees the emptied files itself.
    lake.storage.delete(partition.success)
    done = record.with_(state=State.rolled_back)
    lake.write_record(done)
    return RolledBack(done, tuple(emptied))


def is_alive(record: RunRecord) -> bool:
    """Tells whether a run is at work on this host; of other hosts nobody knows."""
    if record.state not in (State.planned, State.scored) or record.host != socket.gethostname():
        return False
    if record.pid == os.getpid():
        return False
    try:
        os.kill(record.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _kept(key: str, run_id: str) -> str:
    folder, _, name = key.rpartition("/")
    return f"rolled_back/{folder}/{run_id}/{name}"
