"""Turns counts into outcomes: what a broken rule leads to, and the error that stops a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pipeline.errors import JobError, QualityStop, counted, nearest
from pipeline.records import CheckResult, Rule, Severity
from pipeline.suite.expectations import is_row_rule
from pipeline.suite.in_words import expected

if TYPE_CHECKING:
    from pipeline.job.config import Job
    from pipeline.quality.finding import Finding
    from pipeline.suite.row_rules import Count

BUILT_IN = {
    "features_present": "each feature is a column",
    "key_not_null": "no key is NULL",
    "key_unique": "no key occurs twice",
    "row_count": "half to twice as many rows as on recent days; beyond a fifth or five times stops the run",
    "nulls": "at most 5% of the values are NULL",
    "finite": "no value is NaN or infinite",
    "scale": "a typical size within ten times that of recent days",
    "constant_feature": "more than one value",
    "all_default_features": "some feature varies, and at most half of the rows have nothing but 0 or NULL",
    "float32_collisions": "different values stay different in float32, which the model reads",
    "rows_scored": "one staged row for each row to score",
    "keys_once": "each key is staged once",
    "no_predictions": "the day has predictions",
    "constant_scores": "scores that differ",
    "golden_batch": "the model gives the outputs that it gave when it was registered",
    "probabilities_finite": "no probability is NaN or infinite",
    "probabilities_in_range": "each probability is between 0 and 1",
    "probabilities_sum": "the probabilities of a row add up to 1",
    "prediction_known": "each prediction is a class of the model",
    "mean_confidence": "a mean confidence of at least 0.5",
    "class_share": "no class has more than 95% of the rows",
    "collapsed_entropy": "a mean entropy of at least a thousandth of the maximum: a model is not certain of everything",
    "values_finite": "no value is NaN or infinite",
    "variance_not_negative": "no variance is below 0",
    "quantiles_in_order": "no lower quantile is above a higher one",
    "scores_finite": "no score is NaN or infinite",
    "ranking_complete": "each ranking has all its places filled by different items",
    "ranking_in_order": "each ranking has the best item first",
    "items_known": "each item is known to the model",
    "first_item_share": "no item is first in more than 95% of the rankings",
}
"""What each built-in check demands, by the name by which a job can switch it off; `<name>:<feature>` is one feature."""


def check_off(job: Job) -> None:
    """Raises JobError if the job switches off an unknown check."""
    for name in job.quality.off:
        if name.partition(":")[0] not in BUILT_IN:
            raise JobError(
                f"unknown built-in check {name!r}{nearest(name, list(BUILT_IN))}",
                where=job.folder / "job.toml",
                expected=", ".join(BUILT_IN),
            )


def built_in(  # noqa: PLR0913 - the fields of a result
    job: Job,
    suite: str,
    name: str,
    *,
    success: bool,
    severity: Severity = Severity.critical,
    observed: object = None,
    unexpected: int | None = None,
    share: float | None = None,
    column: str | None = None,
    guard: bool = False,
    engine: str = "sql",
    value: float | None = None,
) -> CheckResult:
    """Returns the result of a built-in check; its outcome is `off` if the job switches it off."""
    assert name in BUILT_IN, f"{name} has no place in BUILT_IN, so no job could switch it off"
    full = name if column is None else f"{name}:{column}"
    off = not {name, full}.isdisjoint(job.quality.off)
    outcome = "off" if off else "passed" if success else "stopped" if severity is Severity.critical else "noted"
    return CheckResult.model_validate(
        {
            "suite": suite,
            "name": full,
            "expectation": "guard" if guard else "built-in",
            "column": column,
            "severity": severity,
            "success": success,
            "outcome": outcome,
            "observed": None if observed is None else str(observed),
            "unexpected": unexpected,
            "share": share,
            "engine": engine,
            "expected": BUILT_IN[name],
            "value": value,
        }
    )


def of_finding(suite: str, finding: Finding) -> CheckResult:
    """Returns the result of a rule that Great Expectations evaluated. A rule that raised an error is critical."""
    rule = finding.rule
    severity = rule.severity if finding.error is None else Severity.critical
    # rows may break a rule that holds within its `mostly`: they are quarantined all the same
    within = "mostly" not in rule.kwargs or finding.success
    spared = finding.error is None and quarantines(rule, suite) and within
    outcome = "passed" if finding.success else "stopped" if severity is Severity.critical else "noted"
    return CheckResult.model_validate(
        {
            "suite": suite,
            "name": rule.name,
            "expectation": rule.type,
            "column": rule.column,
            "severity": severity,
            "success": finding.success,
            "outcome": "quarantined" if spared and finding.unexpected else outcome,
            "observed": finding.error or finding.observed,
            "unexpected": finding.unexpected,
            "share": finding.share,
            "engine": "gx",
            "expected": expected(rule),
            "description": rule.description,
        }
    )


def of_count(suite: str, rule: Rule, count: Count) -> CheckResult:
    """Returns the result of a rule about keys, which the plan has already counted."""
    success = count.passes(rule.kwargs.get("mostly", 1.0))
    outcome = "passed" if success else "stopped" if rule.severity is Severity.critical else "noted"
    return CheckResult.model_validate(
        {
            "suite": suite,
            "name": rule.name,
            "expectation": rule.type,
            "column": rule.column,
            "severity": rule.severity,
            "success": success,
            "outcome": outcome,
            "unexpected": count.unexpected,
            "share": count.share,
            "engine": "plan",
            "expected": expected(rule),
            "description": rule.description,
        }
    )


def quarantines(rule: Rule, suite: str) -> bool:
    """Tells whether rows that break the rule are quarantined."""
    return suite == "input" and rule.quarantine and rule.severity is Severity.critical and is_row_rule(rule.type)


def stop(checks: Sequence[CheckResult], what: str, where: object, next_step: str) -> QualityStop:
    """Returns the error that names each check that stops the run; its `checks` hold all results."""
    failed = [check for check in checks if check.outcome == "stopped"]
    error = QualityStop(
        f"{what}: {', '.join(check.name for check in failed)}",
        where=where,
        expected="no critical check fails",
        got="; ".join(map(described, failed)),
        next_step=next_step,
    )
    error.checks = tuple(checks)
    return error


def described(check: CheckResult) -> str:
    """Returns a result in a few words: what was found and, if the check failed, what was expected."""
    text = ": ".join(filter(None, [check.name, found(check)]))
    of = f" of {check.column}" if check.column and check.unexpected else ""  # not a limit of the rows
    return f"{text} (expected{of}: {check.expected})" if check.expected and not check.success else text


def found(check: CheckResult) -> str:
    """Returns what a check found, such as `12 rows (1.20%)`; empty if there is nothing to say."""
    parts = []
    if check.unexpected:
        parts.append(counted(check.unexpected, "row") + (f" ({check.share:.2%})" if check.share is not None else ""))
    if check.observed is not None:
        parts.append(check.observed)
    return ", ".join(parts)


def failed(checks: Iterable[CheckResult]) -> list[CheckResult]:
    """Returns the results that a person should see: checks that failed, and checks that are switched off."""
    return [check for check in checks if check.outcome != "passed"]
