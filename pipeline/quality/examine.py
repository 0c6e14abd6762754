"""Examines the input of a day: built-in checks, then the suite through Great Expectations, then what follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import duckdb

from pipeline.errors import LakescoreError
from pipeline.quality import builtin, measures, rowrules, suite
from pipeline.quality.kinds import is_row_rule
from pipeline.quality.rowrules import Count
from pipeline.quality.verdict import check_off, of_count, of_finding, quarantines
from pipeline.records import CheckResult, Rule

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

    from pipeline.context import Context
    from pipeline.quality.builtin import Keys
    from pipeline.quality.gx_engine import Finding

VIEW = "__input"
"""The whole input of the day, as `selection` has made it."""


@dataclass(frozen=True)
class Examined:
    checks: tuple[CheckResult, ...]
    broken: tuple[Rule, ...] = ()
    """The rules whose rows go to the quarantine: those that some row breaks."""
    findings: tuple[Any, ...] = ()
    """What Great Expectations said, for its pages."""


def examine(
    ctx: Context, con: Connection, ds: str, key: Sequence[str], features: Sequence[str], keys: Keys
) -> Examined:
    """Validates the view of the day's input. Reads; writes nothing."""
    check_off(ctx.job)
    rules = suite.load(ctx.job, "input")
    relation = con.view(VIEW)
    found = measures.measure(relation, features) if features else measures.Profile(keys.rows, 0, ())
    checks = builtin.checks(ctx, keys, found, builtin.recent_runs(ctx, ds))
    if not rules:
        return Examined(tuple(checks))
    about_keys = [rule for rule in rules if _is_about_keys(rule, key, keys)]
    others = [rule for rule in rules if rule not in about_keys]
    counts = count(con, VIEW, others)
    checks += [of_count("input", rule, _counted(keys)) for rule in about_keys]
    findings = judge(con, VIEW, others, counts, samples=ctx.job.quality.samples)
    checks += [of_finding("input", finding) for finding in findings]
    broken = [rule for rule in others if quarantines(rule, "input") and (n := counts.get(rule.name)) and n.unexpected]
    return Examined(tuple(checks), tuple(broken), tuple(findings))


def broken_rules(ctx: Context, con: Connection) -> tuple[Rule, ...]:
    """Returns the rules that some row breaks, by SQL alone: for a preview, which need not import Great Expectations."""
    rules = [rule for rule in suite.load(ctx.job, "input") if quarantines(rule, "input")]
    counts = count(con, VIEW, rules)
    return tuple(rule for rule in rules if (found := counts.get(rule.name)) is not None and found.unexpected)


def count(con: Connection, view: str, rules: Sequence[Rule]) -> dict[str, Count]:
    """Counts the rows that break each row rule, by SQL; of a rule that cannot be told in SQL here, nothing."""
    columns = set(con.view(view).columns)
    judged = [rule for rule in rules if is_row_rule(rule.type) and rule.column in columns]
    try:
        return rowrules.count(con.view(view), judged)
    except (duckdb.BinderException, duckdb.ConversionException, duckdb.InvalidInputException):
        pass  # one of them does not fit its column: Great Expectations says which and why, and that stops the run
    found: dict[str, Count] = {}
    for rule in judged:
        try:
            found |= rowrules.count(con.view(view), [rule])
        except (duckdb.BinderException, duckdb.ConversionException, duckdb.InvalidInputException):
            continue
    return found


def judge(
    con: Connection, view: str, rules: Sequence[Rule], counts: dict[str, Count], *, samples: bool
) -> list[Finding]:
    """Runs rules through Great Expectations. Raises LakescoreError if it counts other rows than SQL does."""
    if not rules:
        return []
    from pipeline.quality import gx_engine

    findings = gx_engine.evaluate(con, view, rules, samples=samples)
    for finding in findings:
        expected = counts.get(finding.rule.name)
        if expected is not None and finding.error is None and expected.unexpected != (finding.unexpected or 0):
            raise LakescoreError(
                f"rule {finding.rule.name} has two counts",
                expected=f"{expected.unexpected:,} rows by SQL, which the quarantine rests on",
                got=f"{finding.unexpected} by Great Expectations",
                next_step="report it: this is a fault of Lakescore",
            )
    return findings


def _is_about_keys(rule: Rule, key: Sequence[str], keys: Keys) -> bool:
    """Tells whether a rule asks what the plan knows already: whether the key is unique."""
    if rule.type == "expect_column_values_to_be_unique":
        return (rule.column,) == tuple(key)
    return (
        rule.type == "expect_rows_to_be_distinct"
        and set(key) <= set(rule.kwargs["column_list"])
        and not (keys.repeated or keys.null)
    )


def _counted(keys: Keys) -> Count:
    return Count(rows=keys.rows, values=keys.rows - keys.null, unexpected=keys.repeated)
