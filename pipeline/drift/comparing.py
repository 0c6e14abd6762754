"""Compares a day's profile with that of the training data and with those of the days before it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from pipeline.drift import distances
from pipeline.drift.days_before import FEWEST_DAYS, Calendar
from pipeline.histograms.counting import Counts
from pipeline.job.config import Drift
from pipeline.periods import Grain, Period

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.drift.distances import Numbers
    from pipeline.histograms.table import Place, Profile

Reference = Literal["training", "trailing", "previous_model"]
Outcome = Literal["ok", "warning", "critical", "none"]

FEWEST_SEEN = 7
"""Number of earlier days whose distance from their own reference must be known before a trailing reference alarms."""
WEEK = 7
"""Number of days from which noise is estimated if the reference is the training data: a slow change is drift there."""
FEWEST_ROWS = 50
"""Number of rows with a value that the day and its reference each need."""


@dataclass(frozen=True)
class Comparison:
    """One row of the view `drift`; docs/drift.md describes the columns."""

    slice_column: str
    slice: str
    kind: str
    column_name: str
    reference: Reference
    outcome: Outcome = "none"
    psi: float | None = None
    js: float | None = None
    mean_shift: float | None = None
    excess: float | None = None
    threshold: float | None = None
    p_value: float | None = None
    p_adjusted: float | None = None
    rows: int = 0
    reference_rows: int = 0
    reference_days: int = 0
    bins: int = 0
    dispersion: float | None = None
    missing: float | None = None
    reference_missing: float | None = None


@dataclass(frozen=True)
class BeforeChange:
    """The outputs of a day, and of the days before it, which another model scored."""

    version: str
    day: Profile
    """The day's scores and classes, counted with the other model's bins."""
    history: Mapping[str, Profile]


def compare_profile(
    ds: str,
    day: Profile,
    training: Profile | None,
    history: Mapping[str, Profile],
    config: Drift,
    grain: Grain = Grain.day,
    before: BeforeChange | None = None,
) -> list[Comparison]:
    """Compares each column of each slice. `history` holds the existing profiles of two windows before `ds`."""
    period = Period.parse(ds, grain)
    pairs = list(_compare_all(period, day, training, history, config))
    if before is not None:
        pairs += _compare_models(period, before, config)
    found = [comparison for comparison, _ in pairs]
    facts = [(index, fact) for index, (_, fact) in enumerate(pairs) if fact is not None]
    adjusted = distances.holm([found[index].p_value or 0.0 for index, _ in facts])
    for (index, fact), p_adjusted in zip(facts, adjusted, strict=True):
        one = replace(found[index], p_adjusted=p_adjusted, threshold=fact.threshold(config.level / len(facts)))
        found[index] = replace(one, outcome=_outcome(one, config))
    return found


@dataclass(frozen=True)
class _Fact:
    """How the PSI of a column's values is distributed by chance."""

    scale: float
    freedom: int
    dispersion: float
    days: int

    def p_value(self, psi: float) -> float:
        return distances.p_value(psi / self.scale, self.freedom, self.dispersion, self.days)

    def threshold(self, level: float) -> float:
        return distances.quantile(level, self.freedom, self.dispersion, self.days) * self.scale


_Judged = tuple[Comparison, _Fact | None]
"""A comparison, with its distribution by chance if an outcome can be given."""


def _outcome(found: Comparison, config: Drift) -> Outcome:
    assert found.p_adjusted is not None
    assert found.excess is not None
    if found.p_adjusted > config.level or found.excess < config.min_effect:
        return "ok"
    return "critical" if found.excess >= config.critical else "warning"


def _compare_all(
    period: Period, day: Profile, training: Profile | None, history: Mapping[str, Profile], config: Drift
) -> Iterator[_Judged]:
    for place, columns in day.items():
        calendar = Calendar(period, place, history, config)
        for counts in columns.values():
            if counts.spec.kind != "confidence":
                yield from _compare(place, counts, training, calendar)


def _compare_models(period: Period, before: BeforeChange, config: Drift) -> Iterator[_Judged]:
    """Compares outputs with those of the model before. One day of it is enough: a change is no gradual one."""
    for place, columns in before.day.items():
        calendar = Calendar(period, place, before.history, config)
        for counts in columns.values():
            total, days = calendar.window_of(counts)
            yield _against("previous_model", place, counts, total, days, calendar.seen(*calendar.rows(counts)))


def _compare(place: Place, counts: Counts, training: Profile | None, calendar: Calendar) -> Iterator[_Judged]:
    """Yields a comparison for each reference, with its distribution by chance if an outcome can be given."""
    rows, numbers = calendar.rows(counts)
    trained = (training or {}).get(place, {}).get(counts.spec.name)
    if trained is not None and trained.spec == counts.spec:
        seen = calendar.seen(rows, numbers, WEEK * calendar.step)
        week = distances.histogram(counts) + rows[calendar.today - numbers < WEEK].sum(axis=0)
        far = _beyond_chance(counts, week, distances.histogram(trained)) >= calendar.critical
        yield _against("training", place, counts, trained, 0, (rows[:0], rows[:0]) if far else seen)
    total, days = calendar.window_of(counts)
    seen = calendar.seen(rows, numbers)
    comparison, fact = _against("trailing", place, counts, total, days, seen)
    if days < FEWEST_DAYS or len(seen[0]) < FEWEST_SEEN:
        comparison, fact = replace(comparison, p_value=None), None
    yield comparison, fact


def _against(
    reference: Reference, place: Place, counts: Counts, other: Counts, days: int, seen: tuple[Numbers, Numbers]
) -> _Judged:
    found = Comparison(*place, counts.spec.kind, counts.spec.name, reference, rows=counts.rows)
    found = replace(found, reference_rows=other.rows, reference_days=days)
    today, before = distances.histogram(counts), distances.histogram(other)
    if min(today[1:].sum(), before[1:].sum()) < FEWEST_ROWS:
        return found, None
    places = places_of(counts, today, before)
    left, right = distances.grouped(today[1:], places), distances.grouped(before[1:], places)
    psi, scale = float(distances.psi(left, right)), float(distances.noise(left, right))
    usual, known = 1.0, len(seen[0])
    if known >= FEWEST_SEEN:
        spread = distances.steady_dispersion if reference == "training" else distances.dispersion
        usual = spread(*(distances.grouped(side[:, 1:], places) for side in seen))
    fact = _Fact(scale, len(left) - 1, usual, known)
    p_value, beyond = fact.p_value(psi), psi - usual * fact.freedom * scale
    if today[0] or before[0]:
        p_missing, of_missing = _missing(today, before, seen)
        p_value, beyond, psi = min(1.0, 2 * min(p_value, p_missing)), beyond + of_missing, psi + of_missing
    found = replace(
        found,
        psi=psi,
        js=distances.jensen_shannon(np.append(left, today[0]), np.append(right, before[0])),
        mean_shift=_shift(counts, other),
        excess=max(0.0, beyond),
        p_value=p_value,
        bins=len(left),
        dispersion=usual,
        missing=float(today[0] / counts.rows),
        reference_missing=float(before[0] / other.rows),
    )
    return found, fact


def places_of(counts: Counts, today: Numbers, before: Numbers) -> NDArray[np.intp]:
    """Returns the group of each bin (bins,) in which a column's values are compared."""
    return (distances.classes if counts.spec.labels else distances.groups)(today[1:], before[1:])


def _beyond_chance(counts: Counts, rows: Numbers, reference: Numbers) -> float:
    """Returns the PSI, missing values included, of several days together, minus its average by chance; 0 for few rows.

    A week together has no weekly rhythm: if it is far from the training data, the population is another one, and the
    spread of its days is no excuse for any of them.
    """
    if min(rows[1:].sum(), reference[1:].sum()) < FEWEST_ROWS:
        return 0.0
    places = places_of(counts, rows, reference)
    left, right = distances.grouped(rows[1:], places), distances.grouped(reference[1:], places)
    by_chance = (len(left) - 1) * float(distances.noise(left, right))
    return float(distances.psi(left, right)) - by_chance + float(distances.psi(_two(rows), _two(reference)))


def _missing(today: Numbers, before: Numbers, seen: tuple[Numbers, Numbers]) -> tuple[float, float]:
    """Returns the p-value of the share of missing values, and the PSI of missing against present."""
    day, reference = _two(today), _two(before)
    usual, known = 1.0, len(seen[0])
    if known >= FEWEST_SEEN:
        usual = max(1.0, float(distances.likelihood_ratio(_two(seen[0]), _two(seen[1])).mean()))
    statistic = float(distances.likelihood_ratio(day, reference))
    return distances.p_value(statistic, 1, usual, known), float(distances.psi(day, reference))


def _two(rows: Numbers) -> Numbers:
    """Returns (..., 2) from (..., bins): the number of missing values, and of the others."""
    return np.stack([rows[..., 0], rows[..., 1:].sum(axis=-1)], axis=-1)


def _shift(counts: Counts, other: Counts) -> float | None:
    """Returns the shift of the mean in the reference's deviations; for classes, the largest change of a share."""
    if counts.spec.labels:
        apart = counts.bins / counts.rows - other.bins / other.rows
        return float(apart[np.argmax(np.abs(apart))])
    deviation = other.deviation
    if not deviation or counts.finite == 0:
        return None
    return (counts.mean - other.mean) / deviation
