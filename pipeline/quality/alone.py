"""Validation without a run: of a day's input, with or without a model; and a suite proposed from a day."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline import database, selection
from pipeline.errors import ModelError, UsageError
from pipeline.model.fit import NUMBER
from pipeline.quality import examine, history, measures, suite
from pipeline.quality.builtin import Keys
from pipeline.records import CheckResult, Rule, Severity, new_run_id

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.context import Context

FEW_VALUES = 12
"""Distinct texts up to which a set is proposed."""


def validate(ctx: Context, ds: str) -> tuple[CheckResult, ...]:
    """Validates a day's input, and keeps the results in the history. Needs no model."""
    with selection.whole_input(ctx, ds) as (con, counts):
        keys = Keys(counts["rows"], counts["rows"] - counts["keys"], counts["repeated"])
        columns = con.view(examine.VIEW).columns
        features = [name for name in _features(ctx) if name in columns]
        found = examine.examine(ctx, con, ds, ctx.job.input.key, features, keys)
    history.write(ctx, ds, new_run_id(), None, "input", found.checks, found.findings)
    return found.checks


def check_suites(ctx: Context) -> dict[str, int]:
    """Returns the number of rules in each suite of a job. Raises JobError for the first mistake.

    Columns are compared with those of the newest day of input, if there is one, arguments with Great Expectations.
    """
    from pipeline.quality import gx_engine

    sizes = {}
    days = ctx.lake.input_days(ctx.job.input.patterns.values())
    for side in suite.SIDES:
        rules = suite.load(ctx.job, side)  # type: ignore[arg-type]
        where = suite.path_of(ctx.job, side)  # type: ignore[arg-type]
        gx_engine.check(rules, where)
        if days and side == "input" and rules:
            with selection.whole_input(ctx, days[-1]) as (con, _):
                suite.check_columns(rules, con.view(examine.VIEW).columns, where)
        sizes[side] = len(rules)
    return sizes


def propose(ctx: Context, ds: str) -> Path:
    """Writes `input.json` with rules that a day's data keeps, for a person to edit.

    Raises UsageError if the job has one.
    """
    path = suite.path_of(ctx.job, "input")
    if path.exists():
        raise UsageError("the job has a suite already", where=path, next_step="edit it, or move it away first")
    rules: list[Rule] = []
    with selection.whole_input(ctx, ds) as (con, counts), database.explained(ds):
        relation = con.view(examine.VIEW)
        types = database.schema(relation)
        numeric = [name for name, kind in types.items() if NUMBER.fullmatch(kind) and kind != "BOOLEAN"]
        found = measures.measure(relation, numeric) if numeric else None
        if counts["repeated"] == 0 and len(ctx.job.input.key) == 1:
            (column,) = ctx.job.input.key
            rules.append(_rule("expect_column_values_to_be_unique", column, "unique", Severity.warning))
        for feature in found.features if found else ():
            if feature.name in ctx.job.input.key:
                continue
            if feature.nulls == 0:
                rules.append(_rule("expect_column_values_to_not_be_null", feature.name, "not_null"))
            if feature.low is not None and feature.high is not None:
                low, high = _widened(feature.low, feature.high)
                rules.append(
                    _rule("expect_column_values_to_be_between", feature.name, "range", min_value=low, max_value=high)
                )
        for name, kind in types.items():
            if kind == "VARCHAR" and name not in (*ctx.job.input.key, "ds"):
                values = relation.select(f'"{name.replace(chr(34), chr(34) * 2)}"').distinct().limit(FEW_VALUES + 1)
                texts = sorted(value for (value,) in values.fetchall() if value is not None)
                if 0 < len(texts) <= FEW_VALUES:
                    rules.append(_rule("expect_column_values_to_be_in_set", name, "known", value_set=texts))
    notes = [
        f"Proposed from {counts['rows']:,} rows of {ds}: each range is as wide again as what that day held.",
        "Edit it: you know what these columns mean. docs/quality.md lists the kinds of expectation.",
    ]
    path.write_text(suite.as_json(rules, notes), "utf-8")
    return path


def _features(ctx: Context) -> tuple[str, ...]:
    """Returns the job's features, or those of its model if that is registered."""
    if ctx.job.input.features is not None:
        return ctx.job.input.features
    try:
        return ctx.registry.resolve(ctx.job.model.name, ctx.job.model.version).signature.features
    except ModelError:
        return ()


def _rule(kind: str, column: str, short: str, severity: Severity = Severity.critical, **kwargs: object) -> Rule:
    return Rule(name=f"{column}_{short}", type=kind, kwargs={"column": column, **kwargs}, severity=severity)


def _widened(low: float, high: float) -> tuple[float, float]:
    """Returns limits as far again from each other; what is never negative stays so."""
    room = (high - low) / 2 or max(abs(high), 1.0)
    least = low - room
    limits = (0.0 if low >= 0 > least else least, high + room)
    return tuple(float(f"{limit:.3g}") for limit in limits)  # type: ignore[return-value]
