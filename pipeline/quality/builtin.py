"""The checks that every job's input has, also without a suite: keys, rows against recent days, and each feature.

They cost one pass over the feature columns and no import of Great Expectations. What happens with single rows that
have a NULL or infinite feature, or no key, is a matter of the job's policy; these checks are about the day as a whole.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.quality.verdict import built_in
from pipeline.records import CheckResult, RunRecord, Severity

if TYPE_CHECKING:
    from pipeline.context import Context
    from pipeline.quality.measures import Profile

RECENT_DAYS = 7
FEWEST_DAYS = 3
"""Complete earlier days that a comparison needs."""
FEWEST_ROWS = 100
"""Fewer rows prove nothing about a distribution."""
NULL_SHARE = 0.05
FEW, MANY = 0.2, 5.0
"""Rows, as a multiple of the median of recent days, beyond which the run stops; it warns at half and twice."""
SCALE = math.log(10)
"""A feature whose typical size is ten times, or a tenth, of that of recent days is in other units."""
DEFAULT_SHARE = 0.5


@dataclass(frozen=True)
class Keys:
    """What is known of the keys without another look."""

    rows: int
    null: int
    repeated: int
    """Rows whose key stands more than once."""


def recent_runs(ctx: Context, ds: str) -> list[RunRecord]:
    """Returns the last complete run of each of the latest days before `ds`."""
    days = [day for day in reversed(ctx.lake.run_days(ctx.job.name)) if day < ds]
    found: list[RunRecord] = []
    for day in days[: 2 * RECENT_DAYS]:
        if len(found) < RECENT_DAYS and (record := ctx.lake.last_complete(ctx.job.name, day)) is not None:
            found.append(record)
    return found


def checks(ctx: Context, keys: Keys, profile: Profile, recent: Sequence[RunRecord]) -> list[CheckResult]:
    return [*_about_keys(ctx, keys), _row_count(ctx, keys.rows, recent), *_about_features(ctx, profile, recent)]


def _about_keys(ctx: Context, keys: Keys) -> Iterator[CheckResult]:
    for name, rows in (("key_not_null", keys.null), ("key_unique", keys.repeated)):
        yield built_in(
            ctx.job,
            "input",
            name,
            success=rows == 0,
            severity=Severity.warning,
            unexpected=rows,
            share=rows / keys.rows if keys.rows else 0.0,
            engine="plan",
        )


def _row_count(ctx: Context, rows: int, recent: Sequence[RunRecord]) -> CheckResult:
    usual = [record.plan.candidates.rows for record in recent]
    ratio = 1.0
    if len(usual) >= FEWEST_DAYS and (median := statistics.median(usual)) >= FEWEST_ROWS:
        ratio = rows / median
    observed = f"{rows:,} rows" + (f", {ratio:.2f} times as many as in recent days" if ratio != 1.0 else "")
    extreme = not FEW <= ratio <= MANY
    severity = Severity.critical if extreme else Severity.warning
    return built_in(
        ctx.job,
        "input",
        "row_count",
        success=0.5 <= ratio <= 2,
        severity=severity,
        observed=observed,
        engine="plan",
    )


def _about_features(ctx: Context, profile: Profile, recent: Sequence[RunRecord]) -> Iterator[CheckResult]:
    job, rows = ctx.job, profile.rows
    yield built_in(job, "input", "features_present", success=True, observed=f"{len(profile.features)} numeric columns")
    for feature in profile.features:
        for name, bad, limit in (("nulls", feature.nulls, NULL_SHARE), ("finite", feature.not_finite, 0.0)):
            share = bad / rows if rows else 0.0
            yield built_in(
                job,
                "input",
                name,
                success=share <= limit,
                severity=Severity.warning,
                unexpected=bad,
                share=share,
                column=feature.name,
            )
        yield _scale(ctx, feature.name, feature.scale, rows, recent)
        yield built_in(
            job,
            "input",
            "constant_feature",
            success=not (feature.constant and rows >= FEWEST_ROWS),
            severity=Severity.warning,
            observed=None if not feature.constant else f"always {feature.low:g}",
            column=feature.name,
            guard=True,
        )
    constant = rows >= FEWEST_ROWS and all(feature.constant for feature in profile.features)
    share = profile.default_rows / rows if rows else 0.0
    yield built_in(
        job,
        "input",
        "all_default_features",
        success=not constant and (share <= DEFAULT_SHARE or rows < FEWEST_ROWS),
        observed="all features are constant" if constant else None,
        unexpected=profile.default_rows,
        share=share,
        guard=True,
    )


def _scale(ctx: Context, feature: str, scale: float | None, rows: int, recent: Sequence[RunRecord]) -> CheckResult:
    """Compares the typical size of a feature with that of recent days, which stands in their records."""
    name = f"scale:{feature}"
    past = [
        float(check.observed)
        for record in recent
        if record.plan.candidates.rows >= FEWEST_ROWS
        for check in record.checks
        if check.name == name and check.observed is not None
    ]
    success = True
    if scale is not None and rows >= FEWEST_ROWS and len(past) >= FEWEST_DAYS:
        success = abs(scale - statistics.median(past)) < SCALE
    observed = None if scale is None else f"{scale:.6g}"
    return built_in(ctx.job, "input", "scale", success=success, observed=observed, column=feature, guard=True)
