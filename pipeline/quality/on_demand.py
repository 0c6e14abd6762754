"""Validates a day's input without a run, with or without a model, and proposes a suite from a day's data."""

from __future__ import annotations

import sys
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import TYPE_CHECKING

from duckdb import ColumnExpression

from pipeline.database.connection import column_types, translated_errors
from pipeline.errors import ModelError, UsageError, counted
from pipeline.model.schema_check import NUMBER
from pipeline.quality import examine, history, measures, queries
from pipeline.records import CheckResult, Rule, Severity, new_run_id
from pipeline.selecting.views import whole_input
from pipeline.suite import suite

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from duckdb import DuckDBPyRelation as Relation

    from pipeline.context import Context
    from pipeline.model.manifest import Signature

FEW_VALUES = 12
"""Largest number of distinct texts for which a set of values is proposed."""


def validate(ctx: Context, ds: str, run_id: str | None = None) -> tuple[CheckResult, ...]:
    """Validates a day's input, and writes the results to the history, by default under a new id. Needs no model."""
    with whole_input(ctx, ds) as day:
        signature = _signature(ctx)
        names = ctx.job.input.features or (signature.features if signature else ())
        features = [name for name in names if name in day.relation.columns]
        found = examine.examine(ctx, day, ds, ctx.job.input.key, features, signature.inputs if signature else {})
    history.write(ctx, ds, run_id or new_run_id(), None, "input", found.checks, found.findings)
    return found.checks


def check_suites(ctx: Context) -> dict[str, int]:
    """Returns the number of rules in each suite of a job. Raises JobError for the first mistake.

    Great Expectations checks the arguments; the columns of the input suite are checked against the newest input day.
    """
    from pipeline.quality import gx_engine

    sizes = {}
    days = ctx.lake.input_days(ctx.job.patterns.values())
    for side in suite.SIDES:
        rules = suite.load(ctx.job, side)  # type: ignore[arg-type]
        where = suite.path_of(ctx.job, side)  # type: ignore[arg-type]
        gx_engine.check(rules, where)
        if days and side == "input" and rules:
            with whole_input(ctx, days[-1]) as day:
                suite.check_columns(rules, day.relation.columns, where)
                queries.check(day.con, day.view, rules)
        sizes[side] = len(rules)
    return sizes


def propose(ctx: Context, ds: str) -> Path:
    """Writes `input.json` with rules that a day's data satisfies, for a person to edit; returns its path.

    Raises UsageError if the file exists.
    """
    path = suite.path_of(ctx.job, "input")
    if path.exists():
        raise UsageError("the job already has an input suite", where=path, next_step="edit it, or move it away first")
    with whole_input(ctx, ds) as day, translated_errors(ds):
        rules = proposed_rules(day.relation, ctx.job.input.key, unique=day.repeated == 0)
    path.write_text(suite.as_json(rules, notes_of(day.rows, f"of {ds}")), "utf-8")
    return path


def notes_of(rows: int, where: str) -> list[str]:
    """Returns the notes of a suite that was proposed from a number of rows."""
    return [
        f"Proposed from {counted(rows, 'row')} {where}: each range is about twice as wide as the values there.",
        "Edit it: you know what these columns mean. docs/quality.md lists the kinds of expectation.",
    ]


def proposed_rules(relation: Relation, key: Sequence[str], *, unique: bool) -> list[Rule]:
    """Returns rules that some rows satisfy. `unique` says that no key occurs twice among them."""
    rules: list[Rule] = []
    types = column_types(relation)
    numeric = [name for name, kind in types.items() if NUMBER.fullmatch(kind) and kind != "BOOLEAN"]
    found = measures.measure(relation, numeric) if numeric else None
    if unique and len(key) == 1:
        rules.append(_rule("expect_column_values_to_be_unique", key[0], "unique", Severity.warning))
    for feature in found.features if found else ():
        if feature.name in key:
            continue
        if feature.nulls == 0:
            rules.append(_rule("expect_column_values_to_not_be_null", feature.name, "not_null"))
        if feature.low is not None and feature.high is not None and feature.not_finite == 0:
            low, high = _widened(feature.low, feature.high)
            rules.append(
                _rule("expect_column_values_to_be_between", feature.name, "range", min_value=low, max_value=high)
            )
    for name, kind in types.items():
        if kind == "VARCHAR" and name not in (*key, "ds"):
            text = ColumnExpression(name)
            values = relation.filter(text.isnotnull()).select(text).distinct().limit(FEW_VALUES + 1)
            texts = sorted(value for (value,) in values.fetchall())
            if 0 < len(texts) <= FEW_VALUES:
                rules.append(_rule("expect_column_values_to_be_in_set", name, "known", value_set=texts))
    return rules


def _signature(ctx: Context) -> Signature | None:
    """Returns the signature of the job's model, or None if it is not registered."""
    try:
        return ctx.manifest().signature
    except ModelError:
        return None


def _rule(kind: str, column: str, short: str, severity: Severity = Severity.critical, **kwargs: object) -> Rule:
    return Rule(name=f"{column}_{short}", type=kind, kwargs={"column": column, **kwargs}, severity=severity)


def _widened(low: float, high: float) -> tuple[float, float]:
    """Returns limits about twice as far apart; the lower one stays at or above 0 if `low` does.

    They are rounded outwards, to three digits of the distance: three digits of a year cannot tell 2013 from 2014.
    """
    room = (high / 2 - low / 2) or max(abs(high), 1.0)
    least = low - room
    least = 0.0 if low >= 0 > least else least
    step = Decimal(1).scaleb(Decimal(room).adjusted() - 2)
    limits = _rounded(least, step, ROUND_FLOOR), _rounded(high + room, step, ROUND_CEILING)
    return min(limits[0], low), max(limits[1], high)


def _rounded(value: float, step: Decimal, how: str) -> float:
    finite = Decimal(max(-sys.float_info.max, min(value, sys.float_info.max)))
    found = float((finite / step).to_integral_value(how) * step)
    return max(-sys.float_info.max, min(found, sys.float_info.max))
