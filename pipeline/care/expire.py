"""Removes what was made of old days: predictions, quarantine and imported copies of text.

That the runs of a day have expired is recorded first. Then their part files lose their rows, but keep their numbers: a
run of that day which is active notices it, as it notices a rollback, and a later run begins anew.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq

from pipeline.care.files import empty, metadata_of, scratch
from pipeline.care.rollback import kept_files
from pipeline.errors import UsageError
from pipeline.job.config import Job
from pipeline.lake.layout import Lake, Partition
from pipeline.lake.liveness import is_at_work
from pipeline.periods import Grain, Period
from pipeline.records import FileInfo, RunRecord, now
from pipeline.staging.folders import remove_empty

MARK = "expired"
"""Entry in the metadata of a part file that was emptied."""


def expire(lake: Lake, job: Job, *, keep_days: int, dry_run: bool = False) -> list[str]:
    """Removes what was made of periods that were over more than `keep_days` ago; run records stay.

    Returns the periods of which something was removed or, with `dry_run`, would be. A period with an active run is
    left for the next time. Can be repeated, and then finishes what was interrupted.
    """
    if keep_days < 1:
        raise UsageError("at least one day must be kept", got=keep_days)
    today = Period.at(Grain.day, datetime.now(UTC), job.schedule.timezone)
    before = (today - keep_days).start(job.schedule.timezone)
    found = {*lake.prediction_days(job.name), *lake.records.days(job.name), *lake.imported_days(job.name)}
    known = (Period.stored(ds, job.grain) for ds in sorted(found))
    days = [period.ds for period in known if period is not None and period.end(job.schedule.timezone) <= before]
    return [ds for ds in days if _expire(lake, job.name, ds, dry_run=dry_run)]


def _expire(lake: Lake, job: str, ds: str, *, dry_run: bool) -> bool:
    """Removes what is left of a day; returns whether there was anything."""
    records = lake.records.of_day(job, ds)
    if any(is_at_work(lake, record) for record in records):
        return False
    fresh = [record for record in records if record.ledger is not None and record.expired_at is None]
    partitions = [Partition(job, ds, version) for version in lake.versions(job, ds)]
    parts = {partition: [part for part in lake.parts(partition) if _has_rows(lake, part)] for partition in partitions}
    others = [*lake.quarantine_files(job, ds), *lake.imported_files(job, ds), *kept_files(lake, job, ds)]
    if dry_run or not (fresh or any(parts.values()) or others):
        return bool(fresh or any(parts.values()) or others)
    for record in fresh:
        _note(lake, record)
    with scratch(lake) as folder:
        for partition in partitions:
            _empty(lake, partition, parts[partition], folder)
    for file in others:
        lake.storage.delete(file.path)
    if lake.is_local:
        remove_empty(lake.workspace.path(f"imported/job={job}/ds={ds}"), lake.workspace.path("imported"))
    return True


def _empty(lake: Lake, partition: Partition, parts: list[FileInfo], folder: Path) -> None:
    lake.storage.delete(partition.success)
    for part in parts:
        run_id = metadata_of(lake, part.path).get("run_id", "")
        if run_id and lake.records.exists(partition.job, partition.ds, run_id):  # it may have ended meanwhile
            _note(lake, lake.records.read(partition.job, partition.ds, run_id))
        empty(lake, part.path, folder, MARK)
    # A run that finished in the meantime may have marked the day; one that finishes later sees the emptied files.
    lake.storage.delete(partition.success)


def _note(lake: Lake, record: RunRecord) -> None:
    """Notes in the record of a run that has ended that it has expired."""
    at = now()
    lake.records.change(
        record,
        lambda stored: stored.with_(expired_at=at) if stored.ledger and stored.expired_at is None else stored,
    )


def _has_rows(lake: Lake, part: FileInfo) -> bool:
    with lake.storage.open(part.path) as file:
        return bool(pq.read_metadata(file).num_rows)
