"""The days that a run has skipped, because there was no input or the input had no rows, and the job skips such days.

`skipped/job=<job>/ds=<ds>.json` says why, and which files the run saw. It counts as long as these are the files.
"""

from __future__ import annotations

from pipeline.lake import notes
from pipeline.lake.layout import Lake
from pipeline.lake.notes import Files, Note
from pipeline.records import now


class Skip(Note):
    reason: str


def mark(lake: Lake, job: str, ds: str, reason: str, files: Files) -> bool:
    """Notes that a day was skipped; returns whether that is new."""
    if (known := find(lake, job, ds, files)) is not None and known.reason == reason:
        return False
    lake.prepare()
    lake.storage.write(_key(job, ds), Skip(reason=reason, input=dict(files), at=now()).model_dump_json().encode())
    return True


def find(lake: Lake, job: str, ds: str, files: Files) -> Skip | None:
    """Returns why a day was skipped, or None if it was not, or has other files since."""
    return notes.find(lake, _key(job, ds), Skip, files)


def days(lake: Lake, job: str) -> list[str]:
    """Returns the days that were ever skipped, sorted."""
    names = (file.path.rpartition("/")[2] for file in lake.storage.files(f"skipped/job={job}"))
    return sorted(name.removeprefix("ds=").removesuffix(".json") for name in names if name.startswith("ds="))


def _key(job: str, ds: str) -> str:
    return f"skipped/job={job}/ds={ds}.json"
