"""Validates a day's input: built-in checks, the suite through Great Expectations, and which rules quarantine rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import duckdb

from pipeline.database.holding import Named
from pipeline.errors import LakescoreError
from pipeline.quality import builtin, collisions, evaluating, measures, queries
from pipeline.quality.verdict import built_in, check_off, of_count, of_finding, quarantines
from pipeline.records import CheckResult, Rule, Severity
from pipeline.suite import row_rules, suite
from pipeline.suite.expectations import columns_of, is_row_rule
from pipeline.suite.row_rules import Count

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

    from pipeline.context import Context
    from pipeline.model.inputs import Input
    from pipeline.quality.finding import Finding
    from pipeline.selecting.views import DayInput


@dataclass(frozen=True)
class Examined:
    checks: tuple[CheckResult, ...]
    broken: tuple[Rule, ...] = ()
    """Quarantine rules that at least one row breaks."""
    findings: tuple[Any, ...] = ()
    """Results of Great Expectations, for its pages."""


def examine(
    ctx: Context,
    day: DayInput,
    ds: str,
    key: Sequence[str],
    features: Sequence[str],
    inputs: Mapping[str, Input],
    *,
    only_rows: bool = False,
) -> Examined:
    """Validates a day's input. Writes nothing. `inputs` are those of the model's signature.

    `only_rows`: of the suite, only which quarantine rules rows break, by SQL: that needs no Great Expectations.
    """
    check_off(ctx.job)
    rules = suite.load(ctx.job, "input")
    found = measures.measure(Named(day.con, day.view), features) if features else measures.Profile(day.rows, 0, ())
    checks = [*builtin.checks(ctx, day, found, builtin.recent_runs(ctx, ds)), *_collisions(ctx, day, found, inputs)]
    if not rules:
        return Examined(tuple(checks))
    suite.check_known(rules, day.relation.columns, suite.path_of(ctx.job, "input"))
    if only_rows:
        return Examined(tuple(checks), broken_rules(ctx, day))
    about_keys = [rule for rule in rules if _is_about_keys(rule, key, day)]
    others = [rule for rule in rules if rule not in about_keys]
    counts = count(day.con, day.view, others)
    checks += [of_count("input", rule, _counted(day)) for rule in about_keys]
    findings = judge(day.con, day.view, others, counts, samples=ctx.job.quality.samples)
    checks += [of_finding("input", finding) for finding in findings]
    broken = [rule for rule in others if quarantines(rule, "input") and (n := counts.get(rule.name)) and n.unexpected]
    return Examined(tuple(checks), tuple(broken), tuple(findings))


def broken_rules(ctx: Context, day: DayInput) -> tuple[Rule, ...]:
    """Returns the quarantine rules that some row breaks, by SQL alone: a preview needs no Great Expectations."""
    rules = [rule for rule in suite.load(ctx.job, "input") if quarantines(rule, "input")]
    counts = count(day.con, day.view, rules)
    return tuple(rule for rule in rules if (found := counts.get(rule.name)) is not None and found.unexpected)


def count(con: Connection, view: str, rules: Sequence[Rule]) -> dict[str, Count]:
    """Counts in SQL the rows that break each row rule. Leaves out rules that do not fit the type of their column."""
    columns = set(con.view(view).columns)
    judged = [rule for rule in rules if is_row_rule(rule.type) and columns.issuperset(columns_of(rule.kwargs))]
    try:
        return row_rules.count(con.view(view), judged)
    except (duckdb.BinderException, duckdb.ConversionException, duckdb.InvalidInputException):
        pass  # a rule does not fit its column: Great Expectations reports which and why, and that stops the run
    found: dict[str, Count] = {}
    for rule in judged:
        try:
            found |= row_rules.count(con.view(view), [rule])
        except (duckdb.BinderException, duckdb.ConversionException, duckdb.InvalidInputException):
            continue
    return found


def judge(
    con: Connection, view: str, rules: Sequence[Rule], counts: dict[str, Count], *, samples: bool
) -> list[Finding]:
    """Runs rules through Great Expectations.

    Raises LakescoreError if a count differs from that of SQL, JobError if a rule has SQL that does more than read.
    """
    if not rules:
        return []
    queries.check(con, view, rules)
    findings = evaluating.evaluate(con, view, rules, samples=samples)
    for finding in findings:
        expected = counts.get(finding.rule.name)
        if expected is not None and finding.error is None and expected.unexpected != (finding.unexpected or 0):
            raise LakescoreError(
                f"Great Expectations and SQL disagree on rule {finding.rule.name}",
                expected=f"{expected.unexpected:,} rows that break it, counted by SQL as in the quarantine",
                got=f"{finding.unexpected}, counted by Great Expectations",
                next_step="report this as a bug in Lakescore",
            )
    return findings


def _collisions(
    ctx: Context, day: DayInput, profile: measures.Profile, inputs: Mapping[str, Input]
) -> Iterator[CheckResult]:
    for found in collisions.find(day.con, day.relation, profile.features, inputs):
        yield built_in(
            ctx.job,
            "input",
            "float32_collisions",
            success=not found.colliding,
            severity=Severity.warning,
            observed=found,
            column=found.feature,
            guard=True,
        )


def _is_about_keys(rule: Rule, key: Sequence[str], day: DayInput) -> bool:
    """Tells whether a rule is about the uniqueness of the key, which the plan has already counted."""
    if rule.type == "expect_column_values_to_be_unique":
        return (rule.column,) == tuple(key)
    return (
        rule.type == "expect_rows_to_be_distinct"
        and set(key) <= set(rule.kwargs["column_list"])
        and not (day.repeated or day.null_keys)
    )


def _counted(day: DayInput) -> Count:
    return Count(rows=day.rows, values=day.rows - day.null_keys, unexpected=day.repeated)
