"""The stage that follows a commit: compares the day's profile, and its predictions with labels that are there already.

What is computed here follows from what is stored, and may be computed again: it never loses a committed run.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING

from pipeline.context import Context, timed
from pipeline.drift import store
from pipeline.records import RunRecord, StageReport, State, now

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.drift.judge import Comparison

log = logging.getLogger(__name__)


def drift(ctx: Context, record: RunRecord) -> RunRecord:
    """The stage. What goes wrong is a warning of the run; `lakescore drift` or the day's next run does it again."""
    if not ctx.job.drift.enabled:
        return record
    warnings: list[str] = []
    with timed("drift") as clock:
        for step in (_compare, _perform):
            try:
                warnings += step(ctx, record)
            except Exception as error:  # noqa: BLE001 - the predictions are committed, and stay so
                log.warning("the drift of %s is not known: %s", record.ds, error)
                warnings.append(f"no drift: {error}")
    return _noted(ctx, record, clock.report, warnings)


def is_missing(ctx: Context, record: RunRecord) -> bool:
    """Tells whether a complete run lacks its profile or its comparison: a crash, or a fault, came in between."""
    return ctx.job.drift.enabled and not (store.has(ctx, "profiles", record) and store.has(ctx, "drift", record))


def repair(ctx: Context, record: RunRecord) -> RunRecord:
    """Makes what is missing of a complete run. Changes nothing if its input is not there any more."""
    from pipeline.drift import profiling

    if not store.has(ctx, "profiles", record):
        try:
            if not profiling.remake(ctx, record):
                return record
        except Exception as error:  # noqa: BLE001 - as in the stage
            log.warning("%s has no profile: %s", record.ds, error)
            return record
    return drift(ctx, record)


def compare(ctx: Context, record: RunRecord) -> list[Comparison]:
    """Compares the stored profile of a complete run, and stores the outcome. Reads no data but profiles."""
    from pipeline.drift import edges
    from pipeline.drift.judge import judge
    from pipeline.drift.tables import from_table

    ds, version, config = record.ds, record.model.version, ctx.job.drift
    table = store.of_run(ctx, "profiles", record)
    if table is None:
        return []
    training = edges.training(ctx, ctx.registry.resolve(record.model.name, version))
    history = store.recent_profiles(ctx, ds, version, 2 * config.window_days)
    found = judge(ds, from_table(table), training, history, config)
    store.write(ctx, "drift", record, _table(found, record.run_id))
    return found


def described(found: Comparison) -> str:
    """Returns one line for a column that alarms."""
    of_slice = f" of {found.slice_column} {found.slice}" if found.slice_column else ""
    return f"{found.column_name}{of_slice} has drifted from {found.reference}: {found.outcome}, PSI {found.psi:.3g}"


def alarms(found: Sequence[Comparison]) -> list[Comparison]:
    return [each for each in found if each.outcome in ("warning", "critical")]


def _compare(ctx: Context, record: RunRecord) -> list[str]:
    return [described(each) for each in alarms(compare(ctx, record))]


def _perform(ctx: Context, record: RunRecord) -> list[str]:
    from pipeline.drift import performance

    performance.measure(ctx, record)
    return []


def _noted(ctx: Context, record: RunRecord, report: StageReport, warnings: Sequence[str]) -> RunRecord:
    """Adds the stage to the stored record, unless a rollback has changed it meanwhile."""
    storage, key = ctx.lake.storage, ctx.lake.record_key(record.job, record.ds, record.run_id)
    seen = storage.head(key)
    stored = ctx.lake.read_record(record.job, record.ds, record.run_id)
    if stored.state is not State.complete:
        return stored
    kept = (stage for stage in stored.stages if stage.stage != report.stage)
    others = (text for text in stored.warnings if not _is_ours(text))
    noted = stored.with_(stages=(*kept, report), warnings=(*others, *warnings))
    storage.update(key, noted.model_dump_json(indent=1).encode() + b"\n", seen)
    return noted


def _is_ours(warning: str) -> bool:
    return warning.startswith("no drift: ") or " has drifted from " in warning


def _table(found: Sequence[Comparison], run_id: str) -> pa.Table:
    import pyarrow as pa

    from pipeline.drift.judge import Comparison

    kinds: dict[str, pa.DataType] = {"str": pa.string(), "int": pa.int64(), "float | None": pa.float64()}
    columns = [(each.name, kinds.get(str(each.type), pa.string())) for each in fields(Comparison)]
    schema = pa.schema([("run_id", pa.string()), *columns, ("computed_at", pa.timestamp("us", "UTC"))])
    at = now()
    return pa.Table.from_pylist([{"run_id": run_id, **asdict(each), "computed_at": at} for each in found], schema)
