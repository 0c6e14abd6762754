"""From counts to consequences: what a broken rule leads to, and the error that stops a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pipeline.errors import JobError, QualityStop, nearest
from pipeline.quality.kinds import is_row_rule
from pipeline.records import CheckResult, Rule, Severity

if TYPE_CHECKING:
    from pipeline.job import Job
    from pipeline.quality.gx_engine import Finding
    from pipeline.quality.rowrules import Count

BUILT_IN = {
    "input": (
        *("features_present", "key_not_null", "key_unique", "row_count", "nulls", "finite"),
        *("scale", "constant_feature", "all_default_features"),
    ),
    "output": (
        *("rows_scored", "keys_once", "probabilities_finite", "probabilities_in_range", "probabilities_sum"),
        *("prediction_known", "mean_confidence", "class_share", "constant_scores", "collapsed_entropy"),
        *("no_predictions", "golden_batch"),
    ),
}
"""The names by which a job can switch checks off; one of a feature is called `<name>:<feature>` too."""


def check_off(job: Job) -> None:
    """Raises JobError if the job switches off what does not exist."""
    known = [name for names in BUILT_IN.values() for name in names]
    for name in job.quality.off:
        if name.partition(":")[0] not in known:
            raise JobError(
                f"no built-in check is called {name!r}{nearest(name, known)}",
                where=job.folder / "job.toml",
                expected=", ".join(known),
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
) -> CheckResult:
    """Returns the result of a check that every job has, unless it is switched off."""
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
        }
    )


def of_finding(suite: str, finding: Finding) -> CheckResult:
    """Returns the result of a rule that Great Expectations judged. One that raised is critical."""
    rule = finding.rule
    severity = rule.severity if finding.error is None else Severity.critical
    spared = finding.error is None and quarantines(rule, suite) and "mostly" not in rule.kwargs
    if finding.error is None and quarantines(rule, suite) and finding.success:
        spared = bool(finding.unexpected)  # within `mostly`; the rows go all the same
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
        }
    )


def of_count(suite: str, rule: Rule, count: Count) -> CheckResult:
    """Returns the result of a rule about keys, which the plan has counted already."""
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
        }
    )


def quarantines(rule: Rule, suite: str) -> bool:
    """Tells whether the rows that break the rule go to the quarantine."""
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
    """Returns a result in a few words."""
    parts = [check.name]
    if check.unexpected:
        parts.append(f"{check.unexpected:,} rows" + (f" ({check.share:.2%})" if check.share is not None else ""))
    if check.observed is not None:
        parts.append(f"found {check.observed}")
    return " ".join(parts)


def failed(checks: Iterable[CheckResult]) -> list[CheckResult]:
    """Returns the results that a person should see: what failed, and what is switched off."""
    return [check for check in checks if check.outcome != "passed"]
