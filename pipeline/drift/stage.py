"""The stage after the commit: compares the day's profile, and measures its predictions if labels are already there.

Its results follow from stored files and can be computed again; a failure here never undoes a committed run.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING

from pipeline.context import Context, timed
from pipeline.lake.layout import Lake
from pipeline.profiles import store
from pipeline.records import Addition, RunRecord, now

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.drift.comparing import Comparison
    from pipeline.drift.rhythm import Rhythm

log = logging.getLogger(__name__)


ALARM = re.compile(r" has (?:drifted from \S+|changed with the model): (?:warning|critical), PSI ")
"""Matches the warning about a column that has drifted."""
OURS = re.compile(r"^no drift(?: from the model before)?: | has drifted from | has changed with the model: ")
"""Matches the warnings of this stage, which a repetition of the stage replaces."""


def drift(ctx: Context, record: RunRecord) -> Addition:
    """Stage. An error becomes a warning of the run; `lakescore drift` or the day's next run repeats the step."""
    warnings: list[str] = []
    with timed("drift") as clock:
        for step in (_compare, _perform):
            try:
                warnings += step(ctx, record)
            except Exception as error:  # noqa: BLE001 - the predictions are committed and stay committed
                log.warning("the drift of %s could not be computed: %s", record.ds, error)
                warnings.append(f"no drift: {error}")
    return Addition(stages=(clock.report,), warnings=tuple(warnings), replaced_warnings=OURS)


def is_missing(ctx: Context, record: RunRecord) -> bool:
    """Tells whether a complete run lacks its profile or its comparison, after a crash or an error."""
    return not (store.has(ctx, "profiles", record) and store.has(ctx, "drift", record))


def repair(ctx: Context, record: RunRecord) -> Addition:
    """Stage: makes a complete run's missing profile and comparison. Adds nothing if its input has changed since."""
    from pipeline.profiles.stage import remake_profile

    if not is_missing(ctx, record):
        return Addition()
    if not store.has(ctx, "profiles", record) and not remake_profile(ctx, record):
        return Addition()
    return drift(ctx, record)


def compare(ctx: Context, record: RunRecord, failures: list[Exception] | None = None) -> list[Comparison]:
    """Compares the stored profile of a complete run, and stores the outcome.

    Reads only profiles, except where a new model's scores are counted with the bins of the model before. If that fails,
    the other comparisons are stored; the error is logged, and added to `failures`.
    """
    from pipeline.drift.comparing import compare_profile
    from pipeline.drift.model_change import before_change
    from pipeline.histograms.table import from_table
    from pipeline.profiles import bin_edges

    ds, config = record.ds, ctx.job.drift
    table = store.of_run(ctx.lake, "profiles", record)
    if table is None:
        return []
    training = bin_edges.training(ctx, ctx.manifest_of(record))
    history = store.recent_profiles(ctx, ds, record.model, 2 * config.window_days)
    day = from_table(table)
    before = None
    try:
        before = before_change(ctx, record, day, history)
    except Exception as error:  # noqa: BLE001 - it takes no other outcome of the day with it
        log.warning("the drift of %s from the model before could not be computed: %s", ds, error)
        if failures is not None:
            failures.append(error)
    found = compare_profile(ds, day, training, history, config, ctx.job.grain, before)
    store.write(ctx, "drift", record, _table(found, record.run_id))
    return found


def weekly(ctx: Context, record: RunRecord) -> list[Rhythm]:
    """Returns the columns of a complete run's day that follow the weekday. Reads only profiles."""
    from pipeline.drift import rhythm
    from pipeline.histograms.table import from_table

    config, table = ctx.job.drift, store.of_run(ctx.lake, "profiles", record)
    if table is None:
        return []
    history = store.recent_profiles(ctx, record.ds, record.model, 2 * config.window_days)
    return rhythm.weekly(record.ds, from_table(table), history, config, ctx.job.grain)


def described(found: Comparison) -> str:
    """Returns one line about a column that raises an alarm."""
    of_slice = f" of {found.slice_column} {found.slice}" if found.slice_column else ""
    how = "changed with the model" if found.reference == "previous_model" else f"drifted from {found.reference}"
    return f"{found.column_name}{of_slice} has {how}: {found.outcome}, PSI {found.psi:.3g}"


def alarms(found: Sequence[Comparison]) -> list[Comparison]:
    return [each for each in found if each.outcome in ("warning", "critical")]


def alarm_levels(lake: Lake, record: RunRecord) -> dict[str, int]:
    """Returns the number of a run's stored alarms by level."""
    table = store.of_run(lake, "drift", record)
    outcomes = table.column("outcome").to_pylist() if table is not None else []
    return {level: outcomes.count(level) for level in ("critical", "warning")}


def alarmed(ctx: Context, record: RunRecord) -> dict[str, list[str]]:
    """Returns the columns of a run with an alarm, by their worst level, `critical` or `warning`, as they are stored."""
    table = store.of_run(ctx.lake, "drift", record)
    pairs = zip(*(table.column(each).to_pylist() for each in ("column_name", "outcome")), strict=True) if table else ()
    worst: dict[str, str] = {}
    for name, outcome in pairs:
        if outcome == "critical" or (outcome == "warning" and name not in worst):
            worst[name] = outcome
    return {level: [name for name, its in worst.items() if its == level] for level in ("critical", "warning")}


def _compare(ctx: Context, record: RunRecord) -> list[str]:
    failures: list[Exception] = []
    found = compare(ctx, record, failures)
    again = f"; repeat it: lakescore drift --job {record.job} --date {record.ds}"
    problems = [f"no drift from the model before: {error}{again}" for error in failures]
    return [*problems, *(described(each) for each in alarms(found))]


def _perform(ctx: Context, record: RunRecord) -> list[str]:
    from pipeline.drift import performance

    performance.measure(ctx, record)
    return []


def _table(found: Sequence[Comparison], run_id: str) -> pa.Table:
    import pyarrow as pa

    from pipeline.drift.comparing import Comparison

    kinds: dict[str, pa.DataType] = {"str": pa.string(), "int": pa.int64(), "float | None": pa.float64()}
    columns = [(each.name, kinds.get(str(each.type), pa.string())) for each in fields(Comparison)]
    schema = pa.schema([("run_id", pa.string()), *columns, ("computed_at", pa.timestamp("us", "UTC"))])
    at = now()
    return pa.Table.from_pylist([{"run_id": run_id, **asdict(each), "computed_at": at} for each in found], schema)
