"""Every stored prediction of a key, with the run that made it, and the checks and drift of that day."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from pipeline.columns import HIVE, OF_PREDICTION, is_output
from pipeline.context import Context
from pipeline.database.connection import column_types, read_parquet, translated_errors
from pipeline.explain import key_lookup
from pipeline.explain.found import FoundPrediction, FoundRejection
from pipeline.lake.layout import Lake, Partition
from pipeline.profiles import store
from pipeline.quality.verdict import described, failed
from pipeline.records import RunRecord

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection


FILE = "__file"
OUTCOMES = ("none", "ok", "warning", "critical")
"""Drift outcomes in ascending order; `none` means that there was nothing to compare with."""
THREADS = 8
"""Number of threads that read small files in parallel: in an object store each request takes a while."""


def predictions(ctx: Context, con: Connection, text: str, days: Sequence[str]) -> list[FoundPrediction]:
    """Returns a key's predictions, newest day and current one first. Raises UsageError if `text` cannot be a key."""
    lake, job = ctx.lake, ctx.job.name
    with ThreadPoolExecutor(THREADS) as pool:
        listed = pool.map(lambda ds: _parts(lake, job, ds), days)
    paths = [lake.storage.where(path) for found in listed for path in found]
    if not paths:
        return []
    with translated_errors(lake.storage, paths):
        stored = read_parquet(con, paths, folders=HIVE, filename=FILE)
        key = key_lookup.parse(con, text, ctx.job.input.key, column_types(stored))
        rows = key_lookup.rows_of(stored, key)
        found = [_found_prediction(lake, row, tuple(key)) for row in rows.to_arrow_table().to_pylist()]
    _add_records(ctx, found)
    return sorted(found, key=lambda each: (each.ds, each.current, each.run_id, each.revision), reverse=True)


def rejected(ctx: Context, con: Connection, text: str, days: Sequence[str]) -> list[FoundRejection]:
    """Returns the rows of a key that are in quarantine now, newest day first."""
    lake = ctx.lake
    newest = [files[-1].path for ds in days if (files := lake.quarantine_files(ctx.job.name, ds))]
    paths = [lake.storage.where(path) for path in newest if path.endswith(".parquet")]
    if not paths:
        return []
    with translated_errors(lake.storage, paths):
        stored = read_parquet(con, paths, folders=("job", "ds"), filename=FILE)
        rows = key_lookup.rows_of(stored, key_lookup.parse(con, text, ctx.job.input.key, column_types(stored)))
        found = rows.select("ds", "reasons", "run_id", "quarantined_at").to_arrow_table().to_pylist()
    return sorted((FoundRejection(**row) for row in found), key=lambda row: row.ds, reverse=True)


def _parts(lake: Lake, job: str, ds: str) -> list[str]:
    found = (Partition(job, ds, version) for version in lake.versions(job, ds))
    return [file.path for partition in found for file in lake.parts(partition)]


def _found_prediction(lake: Lake, row: Mapping[str, Any], key: Sequence[str]) -> FoundPrediction:
    ours = {*OF_PREDICTION, *HIVE, FILE, *key}
    return FoundPrediction(
        ds=row["ds"],
        model_version=row["model_version"],
        revision=row["revision"],
        current=False,
        reason=row["reason"],
        outputs={name: value for name, value in row.items() if is_output(name) and value is not None},
        carried={name: value for name, value in row.items() if name not in ours and not is_output(name)},
        fingerprint=row["fingerprint"],
        scored_at=row["scored_at"],
        run_id=row["run_id"],
        part=row[FILE].removeprefix(lake.storage.where("predictions").removesuffix("predictions")),
    )


def _add_records(ctx: Context, found: Sequence[FoundPrediction]) -> None:
    days = sorted({each.ds for each in found})
    with ThreadPoolExecutor(THREADS) as pool:
        records = dict(zip(days, pool.map(lambda ds: ctx.lake.records.of_day(ctx.job.name, ds), days), strict=True))
    for each in found:
        complete = ctx.lake.records.complete(records[each.ds])
        newest = complete[0] if complete else None
        others = [other.revision for other in found if (other.ds, other.model_version) == (each.ds, each.model_version)]
        each.current = (
            newest is not None
            and newest.model.version == each.model_version
            and each.revision == max(others)
            and not each.withdrawn
        )
        done = [record.run_id for record in complete if record.model.version == each.model_version]
        each.drift = _drift(ctx.lake, Partition(ctx.job.name, each.ds, each.model_version), max(done, default=""))
        record = next((record for record in records[each.ds] if record.run_id == each.run_id), None)
        if record is not None:
            _add_record(each, record)


def _add_record(each: FoundPrediction, record: RunRecord) -> None:
    each.record = record
    each.model, each.model_digest, each.state = record.model.name, record.model.digest, record.state
    outcomes = [check.outcome for check in record.checks]
    each.checks = {outcome: outcomes.count(outcome) for outcome in dict.fromkeys(outcomes)}
    each.findings = [f"{check.outcome} {described(check)}" for check in failed(record.checks)]


def _drift(lake: Lake, partition: Partition, run_id: str) -> dict[str, Any] | None:
    """Returns the worst outcome of a run for its day without slices, and the columns with that outcome, or None."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = lake.storage.read(
        f"{store.folder('drift', partition.job, partition.ds, partition.version)}/{run_id}.parquet"
    )
    if content is None:
        return None
    columns = ["slice_column", "column_name", "outcome"]
    rows = pq.read_table(pa.BufferReader(content), columns=columns, partitioning=None).to_pylist()
    of_day = [row for row in rows if not row["slice_column"]]
    worst = max((row["outcome"] for row in of_day), key=OUTCOMES.index, default="none")
    return {"outcome": worst, "columns": sorted({row["column_name"] for row in of_day if row["outcome"] == worst})}


def days_of(ctx: Context, ds: str | None) -> list[str]:
    """Returns the days to look at, newest first."""
    return [ds] if ds is not None else sorted(ctx.lake.prediction_days(ctx.job.name), reverse=True)


def quarantine_days(ctx: Context, ds: str | None) -> list[str]:
    folders = ctx.lake.storage.folders(f"quarantine/job={ctx.job.name}")
    return [ds] if ds is not None else sorted((name.removeprefix("ds=") for name in folders), reverse=True)
