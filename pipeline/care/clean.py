"""Clears away what nobody needs any more: old staging and rejected work, half-written files, and old days on request.

The age is that of a run's newest file: a run that has been at work for long is not old.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pipeline.errors import UsageError
from pipeline.lake import Lake, Partition
from pipeline.storage.local import WRITING

DAY_S = 86_400.0
DEPTH = {".staging": 5, ".rejected": 5}
"""Where a run's own folder lies: job, day, version, digests, run."""


@dataclass(frozen=True)
class Cleared:
    where: str
    bytes: int
    age_days: float


def clean(lake: Lake, *, older_than_days: float = 7.0, dry_run: bool = False) -> list[Cleared]:
    """Removes staging, rejected work and half-written files whose newest file is older; returns what it removed."""
    if older_than_days < 0:
        raise UsageError("an age is not negative", got=older_than_days)
    found = []
    for path in _work(lake):
        files = [each for each in (path.rglob("*") if path.is_dir() else [path]) if each.is_file()]
        newest = max((each.stat().st_mtime for each in [*files, path]), default=0.0)
        age = (time.time() - newest) / DAY_S
        if age < older_than_days:
            continue
        found.append(Cleared(str(path), sum(each.stat().st_size for each in files), age))
        if not dry_run:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return found


def expire(lake: Lake, job: str, *, keep_days: int, dry_run: bool = False) -> list[str]:
    """Removes the predictions and quarantine of a job's days that are older; the run records stay. Returns the days.

    The highest part goes first: whatever interrupts this, what is left has no gap.
    """
    if keep_days < 1:
        raise UsageError("at least one day is kept", got=keep_days)
    before = (datetime.now(UTC).date() - timedelta(days=keep_days)).isoformat()
    days = [ds for ds in lake.prediction_days(job) if ds < before]
    for ds in [] if dry_run else days:
        for version in lake.versions(job, ds):
            partition = Partition(job, ds, version)
            lake.storage.delete(partition.success)
            for part in reversed(lake.parts(partition)):
                lake.storage.delete(part.path)
        for file in lake.quarantine_files(job, ds):
            lake.storage.delete(file.path)
        if lake.is_local:
            _remove_empty(lake.workspace.path(f"predictions/job={job}/ds={ds}"))
    return days


def _work(lake: Lake) -> Iterator[Path]:
    for top, depth in DEPTH.items():
        root = lake.workspace.path(top)
        yield from sorted(path for path in root.glob("/".join("*" * depth)) if path.is_dir())
        yield from sorted(root.glob("care-*"))
    yield from sorted(lake.workspace.path(WRITING).glob("*"))


def _remove_empty(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
