"""Every prediction that a key ever had, with the run that made it, and what else is known of that day."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from duckdb import StarExpression

from pipeline import database
from pipeline.context import Context
from pipeline.drift import store
from pipeline.explain import lookup
from pipeline.explain.inputs import InputRow
from pipeline.lake import Lake, Partition
from pipeline.predictions import OURS
from pipeline.quality.verdict import described, failed
from pipeline.records import RunRecord, State
from pipeline.reserved import OF_A_MODEL

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation

    from pipeline.explain.replay import Attribution, Replay

FILE = "__file"
HIVE = ("job", "ds", "model_version")
OUTPUTS = ("prediction", "prediction_proba", "value")
OUTCOMES = ("none", "ok", "warning", "critical")
"""Of drift, from nothing to compare with to worst."""
THREADS = 8
"""For files that are small and many: in an object store each look takes a while."""


@dataclass
class Explained:
    """One prediction, and where it comes from."""

    ds: str
    model_version: str
    revision: int
    current: bool
    """Whether the view `predictions` shows it."""
    reason: str
    outputs: dict[str, Any]
    """What the model gave."""
    carried: dict[str, Any]
    fingerprint: int
    scored_at: datetime
    run_id: str
    part: str
    """The file in which it stands."""
    model: str | None = None
    model_digest: str | None = None
    state: State | None = None
    """Of the run; None if its record is gone. What is None with it stands in the record, too."""
    checks: dict[str, int] = field(default_factory=dict)
    """The validation of that day: results by outcome."""
    findings: list[str] = field(default_factory=list)
    """Its checks that did not pass."""
    drift: dict[str, Any] | None = None
    """The worst outcome of that day and the columns that have it; None if no drift was computed."""
    input: InputRow | None = None
    replay: Replay | None = None
    attribution: Attribution | None = None
    record: RunRecord | None = field(default=None, repr=False)

    def as_dict(self) -> dict[str, Any]:
        parts = {name: getattr(self, name) for name in ("input", "replay", "attribution")}
        own = {name: value for name, value in vars(self).items() if name not in (*parts, "record")}
        found = {name: None if part is None else asdict(part) for name, part in parts.items()}
        if found["input"] is not None:
            del found["input"]["batch"]
        return own | found


@dataclass(frozen=True)
class Rejected:
    """A row of the key that is in quarantine."""

    ds: str
    reasons: list[str]
    run_id: str
    quarantined_at: datetime


def predictions(ctx: Context, con: Connection, text: str, days: Sequence[str]) -> list[Explained]:
    """Returns the predictions of a key, the newest day and the current one first. Raises UsageError for no such key."""
    lake, job = ctx.lake, ctx.job.name
    with ThreadPoolExecutor(THREADS) as pool:
        listed = pool.map(lambda ds: _parts(lake, job, ds), days)
    paths = [lake.storage.where(path) for found in listed for path in found]
    if not paths:
        return []
    with database.explained(lake.storage, paths):
        stored = _parquet(con, paths)
        key = lookup.parse(con, text, ctx.job.input.key, database.schema(stored))
        rows = lookup.rows_of(stored, key)
        found = [_explained(lake, row, tuple(key)) for row in rows.to_arrow_table().to_pylist()]
    _add_records(ctx, found)
    return sorted(found, key=lambda each: (each.ds, each.current, each.run_id, each.revision), reverse=True)


def rejected(ctx: Context, con: Connection, text: str, days: Sequence[str]) -> list[Rejected]:
    """Returns the rows of a key that are in quarantine now, the newest day first."""
    lake = ctx.lake
    newest = [files[-1].path for ds in days if (files := lake.quarantine_files(ctx.job.name, ds))]
    paths = [lake.storage.where(path) for path in newest if path.endswith(".parquet")]
    if not paths:
        return []
    with database.explained(lake.storage, paths):
        stored = _parquet(con, paths)
        rows = lookup.rows_of(stored, lookup.parse(con, text, ctx.job.input.key, database.schema(stored)))
        found = rows.select("ds", "reasons", "run_id", "quarantined_at").to_arrow_table().to_pylist()
    return sorted((Rejected(**row) for row in found), key=lambda row: row.ds, reverse=True)


def _parts(lake: Lake, job: str, ds: str) -> list[str]:
    found = (Partition(job, ds, version) for version in lake.versions(job, ds))
    return [file.path for partition in found for file in lake.parts(partition)]


def _parquet(con: Connection, paths: Sequence[str]) -> Relation:
    query = """
        SELECT * FROM read_parquet(
            $paths, hive_partitioning = true, hive_types_autocast = false, union_by_name = true, filename = '__file')
    """
    return con.sql(query, params={"paths": list(paths)}).select(StarExpression())


def _explained(lake: Lake, row: Mapping[str, Any], key: Sequence[str]) -> Explained:
    ours = {*OURS.names, *HIVE, FILE, *key}
    is_output = {name: bool(OF_A_MODEL.fullmatch(name)) or name in OUTPUTS for name in row}
    return Explained(
        ds=row["ds"],
        model_version=row["model_version"],
        revision=row["revision"],
        current=False,
        reason=row["reason"],
        outputs={name: value for name, value in row.items() if is_output[name] and value is not None},
        carried={name: value for name, value in row.items() if name not in ours and not is_output[name]},
        fingerprint=row["fingerprint"],
        scored_at=row["scored_at"],
        run_id=row["run_id"],
        part=row[FILE].removeprefix(lake.storage.where("predictions").removesuffix("predictions")),
    )


def _add_records(ctx: Context, found: Sequence[Explained]) -> None:
    days = sorted({each.ds for each in found})
    with ThreadPoolExecutor(THREADS) as pool:
        records = dict(zip(days, pool.map(lambda ds: ctx.lake.records(ctx.job.name, ds), days), strict=True))
    for each in found:
        complete = [record for record in records[each.ds] if record.state is State.complete]
        newest = max(complete, key=lambda record: record.finished_at or record.started_at, default=None)
        others = [other.revision for other in found if (other.ds, other.model_version) == (each.ds, each.model_version)]
        each.current = (
            newest is not None and newest.model.version == each.model_version and each.revision == max(others)
        )
        done = [record.run_id for record in complete if record.model.version == each.model_version]
        each.drift = _drift(ctx.lake, Partition(ctx.job.name, each.ds, each.model_version), max(done, default=""))
        record = next((record for record in records[each.ds] if record.run_id == each.run_id), None)
        if record is not None:
            _add_record(each, record)


def _add_record(each: Explained, record: RunRecord) -> None:
    each.record = record
    each.model, each.model_digest, each.state = record.model.name, record.model.digest, record.state
    outcomes = [check.outcome for check in record.checks]
    each.checks = {outcome: outcomes.count(outcome) for outcome in dict.fromkeys(outcomes)}
    each.findings = [f"{check.outcome} {described(check)}" for check in failed(record.checks)]


def _drift(lake: Lake, partition: Partition, run_id: str) -> dict[str, Any] | None:
    """Returns the worst outcome over the whole day and its columns, as the newest complete run found it."""
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
