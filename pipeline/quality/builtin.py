"""The checks of every job's input, with or without a suite: keys, row count against recent days, and each feature.

They take one pass over the feature columns and do not import Great Expectations. They judge the day as a whole; the
job's policy decides about single rows that have a NULL or infinite feature, or no key.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pipeline.errors import counted
from pipeline.quality import measures
from pipeline.quality.verdict import built_in
from pipeline.records import CheckResult, RunRecord, Severity

if TYPE_CHECKING:
    from pipeline.context import Context
    from pipeline.quality.measures import Feature, Profile
    from pipeline.selecting.views import DayInput

RECENT_DAYS = 7
FEWEST_DAYS = 3
"""Number of complete earlier days that a comparison needs."""
FEWEST_ROWS = 100
"""Number of rows below which nothing is concluded about a distribution."""
NULL_SHARE = 0.05
FEW, MANY = 0.2, 5.0
"""Row count, as a multiple of the median of recent days, below or above which the run stops; it warns at 0.5 and 2."""
SCALE = math.log(10)
"""Change of a feature's typical size (`Feature.scale`, in ln units) that means other units: a factor of ten."""
DEFAULT_SHARE = 0.5
LARGEST = 700.0
"""Scale up to which a number can hold the size."""


def recent_runs(ctx: Context, ds: str) -> list[RunRecord]:
    """Returns the last complete run of each of up to RECENT_DAYS days before `ds`, newest first."""
    days = [day for day in reversed(ctx.lake.records.days(ctx.job.name)) if day < ds]
    found: list[RunRecord] = []
    for day in days[: 2 * RECENT_DAYS]:
        if len(found) < RECENT_DAYS and (record := ctx.lake.records.last_complete(ctx.job.name, day)) is not None:
            found.append(record)
    return found


def checks(ctx: Context, day: DayInput, profile: Profile, recent: Sequence[RunRecord]) -> list[CheckResult]:
    return [*_about_keys(ctx, day), _row_count(ctx, day.rows, recent), *_about_features(ctx, day, profile, recent)]


def _about_keys(ctx: Context, day: DayInput) -> Iterator[CheckResult]:
    for name, rows in (("key_not_null", day.null_keys), ("key_unique", day.repeated)):
        yield built_in(
            ctx.job,
            "input",
            name,
            success=rows == 0,
            severity=Severity.warning,
            unexpected=rows,
            share=rows / day.rows if day.rows else 0.0,
            engine="plan",
        )


def _row_count(ctx: Context, rows: int, recent: Sequence[RunRecord]) -> CheckResult:
    usual = [record.plan.candidates.rows for record in recent]
    ratio, observed = 1.0, counted(rows, "row")
    if len(usual) >= FEWEST_DAYS and (median := statistics.median(usual)) >= FEWEST_ROWS:
        ratio = rows / median
        observed += f", usually {median:,.0f}"
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


def _about_features(
    ctx: Context, day: DayInput, profile: Profile, recent: Sequence[RunRecord]
) -> Iterator[CheckResult]:
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
        yield _scale(ctx, day, feature, recent)
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


def _scale(ctx: Context, day: DayInput, feature: Feature, recent: Sequence[RunRecord]) -> CheckResult:
    """Compares the typical size of a feature with that of recent days, which their run records hold."""
    scale, usual = feature.scale, _usual_scale(feature.name, recent)
    observed = None if scale is None else f"typical size {_size(scale)}"
    success = True
    if scale is not None and usual is not None and day.rows >= FEWEST_ROWS:
        success = abs(scale - usual) < SCALE
        observed = f"{observed}, usually {_size(usual)}"
        if not success and (path := _first_unusual(ctx, day, feature.name, usual)):
            observed = f"{observed}; first seen in {path}"
    return built_in(
        ctx.job, "input", "scale", success=success, observed=observed, column=feature.name, guard=True, value=scale
    )


def _usual_scale(feature: str, recent: Sequence[RunRecord]) -> float | None:
    """Returns the median of recent days, or None if there are too few."""
    past = [
        number
        for record in recent
        if record.plan.candidates.rows >= FEWEST_ROWS
        for check in record.checks
        if check.name == f"scale:{feature}" and (number := measured(check)) is not None
    ]
    return statistics.median(past) if len(past) >= FEWEST_DAYS else None


def measured(check: CheckResult) -> float | None:
    """Returns the measured number; records of older versions have it as text in `observed`."""
    if check.value is None and check.observed is not None and check.expected is None:
        return float(check.observed)
    return check.value


def _first_unusual(ctx: Context, day: DayInput, feature: str, usual: float) -> str | None:
    """Returns the path of the first file in which the typical size is unusual; None if no single file is."""
    scales = measures.scale_by_file(day, feature)
    found = next((path for path, scale in scales if abs(scale - usual) >= SCALE), None)
    return None if found is None else found.removeprefix(ctx.lake.storage.where("").rstrip("/") + "/")


def _size(scale: float) -> str:
    """Returns a typical size, of which `scale` is the logarithm, with three digits."""
    return f"{float(f'{math.expm1(min(scale, LARGEST)):.3g}'):,.10g}"
