"""Removes what is no longer needed: old staging, rejected work, and partially written files.

The age of a run's work is that of its newest file, so that a long run that is still active does not count as old.
"""

from __future__ import annotations

import shutil
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.buckets.exchange import FETCHED
from pipeline.care.files import SCRATCH
from pipeline.errors import UsageError
from pipeline.lake.layout import Lake
from pipeline.lake.liveness import PREFIX as ALIVE
from pipeline.records import FileInfo
from pipeline.storage.local import WRITING

DAY_S = 86_400.0
DEPTH = {".staging": 5, ".rejected": 5}
"""Levels down to the folder of a run: job, day, version, digests, run."""


@dataclass(frozen=True)
class Cleared:
    where: str
    bytes: int
    age_days: float


def clean(lake: Lake, *, older_than_days: float = 7.0, dry_run: bool = False) -> list[Cleared]:
    """Removes staging, rejected work and partially written files older than `older_than_days`.

    Returns what was removed or, with `dry_run`, what would be.
    """
    if older_than_days < 0:
        raise UsageError("the age must not be negative", got=older_than_days)
    found = []
    for path in _work(lake):
        try:
            files = [each for each in (path.rglob("*") if path.is_dir() else [path]) if each.is_file()]
            newest = max((each.stat().st_mtime for each in [*files, path]), default=0.0)
        except FileNotFoundError:
            continue  # a run is at work there
        age = (time.time() - newest) / DAY_S
        if age < older_than_days:
            continue
        found.append(Cleared(str(path), sum(each.stat().st_size for each in files), age))
        if not dry_run:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if not lake.is_local:
        found += _clean_bucket(lake, older_than_days, dry_run=dry_run)
    return found


def _clean_bucket(lake: Lake, older_than_days: float, *, dry_run: bool) -> list[Cleared]:
    """Removes what the tasks of clusters have left in the object store of a lake."""
    files: dict[str, list[FileInfo]] = defaultdict(list)
    for file in lake.storage.files(".staging"):
        files["/".join(file.path.split("/")[: DEPTH[".staging"] + 1])].append(file)
    found = []
    for folder, of_run in files.items():
        try:
            newest = max(lake.storage.stat(file.path)[1].timestamp() for file in of_run)
        except FileNotFoundError:
            continue  # a run is at work there
        age = (time.time() - newest) / DAY_S
        if age < older_than_days:
            continue
        found.append(Cleared(lake.storage.where(folder), sum(file.size for file in of_run), age))
        for file in () if dry_run else of_run:
            lake.storage.delete(file.path)
    return found


def _work(lake: Lake) -> Iterator[Path]:
    for top, depth in DEPTH.items():
        root = lake.workspace.path(top)
        yield from sorted(path for path in root.glob("/".join("*" * depth)) if path.is_dir())
        yield from sorted(path for prefix in (SCRATCH, FETCHED, ALIVE) for path in root.glob(f"{prefix}*"))
    yield from sorted(lake.workspace.path(WRITING).glob("*"))
