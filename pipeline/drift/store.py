"""Where profiles, comparisons and performance lie, and which file of a day is the current one.

    <kind>/job=<job>/ds=<ds>/model_version=<version>/<run_id>.parquet

A file counts once its run is complete, and of several the newest: the views choose in the same way.
"""

from __future__ import annotations

import json
from datetime import date, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from pipeline.context import Context
from pipeline.errors import LakeDamaged
from pipeline.lake import Lake
from pipeline.records import RunRecord, State
from pipeline.storage import Storage

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.drift.tables import Profile

Kind = Literal["profiles", "drift", "performance"]


def folder(kind: Kind, job: str, ds: str, version: str) -> str:
    return f"{kind}/job={job}/ds={ds}/model_version={version}"


def key(kind: Kind, record: RunRecord) -> str:
    """Returns where the file of a run lies."""
    return f"{folder(kind, record.job, record.ds, record.model.version)}/{record.run_id}.parquet"


def edges_key(job: str, version: str) -> str:
    return f"profiles/job={job}/edges/{version}.parquet"


def labels_folder(job: str, ds: str) -> str:
    return f"labels/job={job}/ds={ds}"


def has(ctx: Context, kind: Kind, record: RunRecord) -> bool:
    return ctx.lake.storage.head(key(kind, record)) is not None


def write(ctx: Context, kind: Kind, record: RunRecord, table: pa.Table) -> None:
    """Keeps the file of a run, as a whole, in place of one from an attempt before."""
    from pipeline.drift.tables import to_bytes

    ctx.lake.storage.write(key(kind, record), to_bytes(table))


def of_run(ctx: Context, kind: Kind, record: RunRecord) -> pa.Table | None:
    """Returns the file of one run, or None."""
    found = ctx.lake.storage.head(key(kind, record))
    return None if found is None else _table(ctx.lake.storage, found.path, found.etag)


def current(ctx: Context, kind: Kind, ds: str, version: str) -> pa.Table | None:
    """Returns the file of the day's newest complete run, or None. Raises LakeDamaged if it cannot be read."""
    found = _current(ctx.lake, kind, ctx.job.name, ds, version)
    return None if found is None else _table(ctx.lake.storage, *found)


def recent(ctx: Context, kind: Kind, ds: str, version: str, days: int) -> dict[str, pa.Table]:
    """Returns the files of the days before `ds`, at most so many days back. Nothing older is looked at."""
    before = _days_before(ds, days)
    found = {day: current(ctx, kind, day, version) for day in before}
    return {day: table for day, table in found.items() if table is not None}


def profile(ctx: Context, ds: str, version: str) -> Profile | None:
    found = _current(ctx.lake, "profiles", ctx.job.name, ds, version)
    return None if found is None else _profile(ctx.lake, *found)


def recent_profiles(ctx: Context, ds: str, version: str, days: int) -> dict[str, Profile]:
    found = {day: profile(ctx, day, version) for day in _days_before(ds, days)}
    return {day: each for day, each in found.items() if each is not None}


def _days_before(ds: str, days: int) -> list[str]:
    return [(date.fromisoformat(ds) - timedelta(days=back)).isoformat() for back in range(days, 0, -1)]


def _current(lake: Lake, kind: Kind, job: str, ds: str, version: str) -> tuple[str, str] | None:
    """Returns path and etag of the current file."""
    for file in reversed(lake.storage.files(folder(kind, job, ds, version))):
        run_id = file.path.rpartition("/")[2].removesuffix(".parquet")
        record = lake.storage.head(lake.record_key(job, ds, run_id))
        if record is not None and _state(lake, record.path, record.etag) == State.complete:
            return file.path, file.etag
    return None


# A backfill asks for the same days again and again; what was changed has another etag.


@lru_cache(maxsize=1024)
def _state(lake: Lake, path: str, _etag: str) -> str | None:
    storage = lake.storage
    try:
        state: str | None = json.loads(storage.read(path) or b"{}").get("state")
    except ValueError as error:
        raise LakeDamaged("a run record cannot be read", where=storage.where(path), got=str(error)) from None
    return state


@lru_cache(maxsize=256)
def _profile(lake: Lake, path: str, etag: str) -> Profile:
    from pipeline.drift.tables import from_table

    return from_table(_table(lake.storage, path, etag))


def _table(storage: Storage, path: str, _etag: str) -> pa.Table:
    import pyarrow as pa

    from pipeline.drift.tables import from_bytes

    try:
        return from_bytes(storage.read(path) or b"")
    except pa.ArrowException as error:
        raise LakeDamaged(
            "a file cannot be read",
            where=storage.where(path),
            got=str(error),
            next_step="remove it; `lakescore drift` makes it again",
        ) from None
