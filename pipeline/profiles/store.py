"""Where profiles, comparisons and performance lie, and which file of a day is current.

    <kind>/job=<job>/ds=<ds>/model_version=<version>/<run_id>.parquet

The current file is the newest one whose run is complete. The views choose in the same way.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

from pipeline.context import Context
from pipeline.errors import LakeDamaged
from pipeline.lake.layout import Lake
from pipeline.lake.record_store import parse
from pipeline.periods import Period
from pipeline.records import ModelRef, RunRecord, State
from pipeline.storage import Storage
from pipeline.storage.parquet import from_bytes, to_bytes

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.histograms.table import Profile

Kind = Literal["profiles", "drift", "performance"]


def folder(kind: Kind, job: str, ds: str, version: str) -> str:
    return f"{kind}/job={job}/ds={ds}/model_version={version}"


def key(kind: Kind, record: RunRecord) -> str:
    """Returns the storage key of a run's file."""
    return f"{folder(kind, record.job, record.ds, record.model.version)}/{record.run_id}.parquet"


def edges_key(job: str, version: str, digest: str) -> str:
    return f"profiles/job={job}/edges/{version}-{digest[:16]}.parquet"


def earlier_edges_key(job: str, version: str) -> str:
    """Returns the key at which earlier versions of Lakescore stored the edges of any model of this version."""
    return f"profiles/job={job}/edges/{version}.parquet"


def labels_folder(job: str, ds: str) -> str:
    return f"labels/job={job}/ds={ds}"


def has(ctx: Context, kind: Kind, record: RunRecord) -> bool:
    return ctx.lake.storage.head(key(kind, record)) is not None


def write(ctx: Context, kind: Kind, record: RunRecord, table: pa.Table) -> None:
    """Writes the file of a run as a whole, and replaces one from an earlier attempt."""
    ctx.lake.storage.write(key(kind, record), to_bytes(table))


def of_run(lake: Lake, kind: Kind, record: RunRecord) -> pa.Table | None:
    """Returns the file of one run, or None."""
    found = lake.storage.head(key(kind, record))
    return None if found is None else _table(lake.storage, found.path, found.etag)


def current(ctx: Context, kind: Kind, ds: str, version: str) -> pa.Table | None:
    """Returns the file of the day's newest complete run, or None. Raises LakeDamaged if it cannot be read."""
    found = _current(ctx.lake, kind, ctx.job.name, ds, version)
    return None if found is None else _table(ctx.lake.storage, *found)


def recent_profiles(ctx: Context, ds: str, model: ModelRef, days: int) -> dict[str, Profile]:
    """Returns by day the current profiles of a model, where there are any, of the `days` days before `ds`.

    A day whose predictions are of another model of the same version is left out.
    """
    return profiles_before(ctx.lake, ctx.job.name, ctx.job.period(ds), model, days)


def profiles_before(lake: Lake, job: str, period: Period, model: ModelRef, count: int) -> dict[str, Profile]:
    """Returns by period the current profiles of a model, where there are any, of the `count` periods before one."""
    files = {
        each.ds: _current(lake, "profiles", job, each.ds, model.version, model.digest) for each in period.before(count)
    }
    return {ds: _profile(lake, *file) for ds, file in files.items() if file is not None}


def _current(
    lake: Lake, kind: Kind, job: str, ds: str, version: str, digest: str | None = None
) -> tuple[str, str] | None:
    """Returns the path and etag of the current file, or None; also None if it is of a model with another `digest`."""
    for file in reversed(lake.storage.files(folder(kind, job, ds, version))):
        run_id = file.path.rpartition("/")[2].removesuffix(".parquet")
        record = lake.storage.head(lake.records.key(job, ds, run_id))
        if record is not None and (found := _run(lake, record.path, record.etag)).state is State.complete:
            return (file.path, file.etag) if digest in (None, found.model.digest) else None
    return None


class _Run(NamedTuple):
    state: State
    model: ModelRef


# A backfill reads the same days again and again. The etag is part of the cache key, so a changed file is read again.


@lru_cache(maxsize=1024)
def _run(lake: Lake, path: str, _etag: str) -> _Run:
    record = parse(lake.storage.read(path) or b"", lake.storage.where(path))
    return _Run(record.state, record.model)


@lru_cache(maxsize=256)
def _profile(lake: Lake, path: str, etag: str) -> Profile:
    from pipeline.histograms.table import from_table

    return from_table(_table(lake.storage, path, etag))


def _table(storage: Storage, path: str, _etag: str) -> pa.Table:
    import pyarrow as pa

    try:
        return from_bytes(storage.read(path) or b"")
    except pa.ArrowException as error:
        raise LakeDamaged(
            "a file cannot be read",
            where=storage.where(path),
            got=str(error),
            next_step="remove it; `lakescore drift` creates it again",
        ) from None
