"""Compares the profile of a day with that of the training data and with those of the days before it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING, Literal

import numpy as np

from pipeline.drift import measures
from pipeline.drift.counting import Counts, merged
from pipeline.job_tables import Drift

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.drift.measures import Numbers
    from pipeline.drift.tables import Place, Profile

Reference = Literal["training", "trailing"]
Outcome = Literal["ok", "warning", "critical", "none"]

FEWEST_DAYS = 3
"""Days that a trailing reference needs."""
FEWEST_SEEN = 7
"""Days for which it must be known how far they lay from theirs, before a trailing reference alarms."""
WEEK = 7
"""Days before a day that tell how noisy it is, if the reference is the training data: wandering off is drift then."""
FEWEST_ROWS = 50
"""Of either side."""


@dataclass(frozen=True)
class Comparison:
    """One row of the view `drift`; the columns are told in docs/drift.md."""

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


def judge(
    ds: str, day: Profile, training: Profile | None, history: Mapping[str, Profile], config: Drift
) -> list[Comparison]:
    """Compares each column of each slice; `history` holds the days of two windows before `ds`, or what there is."""
    found: list[Comparison] = []
    facts: list[tuple[int, _Fact]] = []
    for place, columns in day.items():
        calendar = _Calendar(ds, place, history, config)
        for counts in columns.values():
            if counts.spec.kind == "confidence":
                continue
            for comparison, fact in _compare(place, counts, training, calendar):
                if fact is not None:
                    facts.append((len(found), fact))
                found.append(comparison)
    adjusted = measures.holm([found[index].p_value or 0.0 for index, _ in facts])
    for (index, fact), p_adjusted in zip(facts, adjusted, strict=True):
        one = replace(found[index], p_adjusted=p_adjusted, threshold=fact.threshold(config.level / len(facts)))
        found[index] = replace(one, outcome=_outcome(one, config))
    return found


@dataclass(frozen=True)
class _Fact:
    """What the PSI of a column's values is by chance."""

    scale: float
    freedom: int
    dispersion: float
    days: int

    def p_value(self, psi: float) -> float:
        return measures.p_value(psi / self.scale, self.freedom, self.dispersion, self.days)

    def threshold(self, level: float) -> float:
        return measures.quantile(level, self.freedom, self.dispersion, self.days) * self.scale


def _outcome(found: Comparison, config: Drift) -> Outcome:
    assert found.p_adjusted is not None
    assert found.excess is not None
    if found.p_adjusted > config.level or found.excess < config.min_effect:
        return "ok"
    return "critical" if found.excess >= config.critical else "warning"


class _Calendar:
    """The days before one day, as far as they count for one slice."""

    def __init__(self, ds: str, place: Place, history: Mapping[str, Profile], config: Drift) -> None:
        days = [day for day in sorted(history) if day < ds and place in history[day]]
        self.parts = [history[day][place] for day in days]
        self.numbers = np.array([*(date.fromisoformat(day).toordinal() for day in days)], np.int64)
        self.today = date.fromisoformat(ds).toordinal()
        self.window, self.step = config.window_days, 7 if config.same_weekday else 1

    def before(self, number: int) -> NDArray[np.bool_]:
        """Returns which days are the reference of a day: (days,)."""
        return self.among(number, self.numbers)

    def among(self, number: int, numbers: NDArray[np.int64], span: int = 0) -> NDArray[np.bool_]:
        apart = number - numbers
        found: NDArray[np.bool_] = (apart > 0) & (apart <= (span or self.window)) & (apart % self.step == 0)
        return found

    def alike(self, counts: Counts) -> NDArray[np.bool_]:
        """Returns which days have the column, counted with the same edges, and rows: (days,)."""
        name = counts.spec.name
        known = (part.get(name) for part in self.parts)
        return np.array([each is not None and each.spec == counts.spec and each.rows > 0 for each in known], bool)


def _compare(
    place: Place, counts: Counts, training: Profile | None, calendar: _Calendar
) -> Iterator[tuple[Comparison, _Fact | None]]:
    """Yields a comparison for each reference, and what is known of chance if it is to be judged."""
    name = counts.spec.name
    alike = calendar.alike(counts)
    rows = np.array([measures.histogram(part[name]) for part, good in zip(calendar.parts, alike, strict=True) if good])
    numbers = calendar.numbers[alike]
    trained = (training or {}).get(place, {}).get(name)
    if trained is not None and trained.spec == counts.spec:
        yield _against("training", place, counts, trained, 0, _seen(calendar, rows, numbers, WEEK * calendar.step))
    chosen = calendar.before(calendar.today)[alike]
    days = [part[name] for part, good in zip(calendar.parts, alike, strict=True) if good]
    window = [{name: each} for each, good in zip(days, chosen, strict=True) if good]
    total = merged(window).get(name, Counts(counts.spec))
    seen = _seen(calendar, rows, numbers)
    known = len(window) >= FEWEST_DAYS and len(seen[0]) >= FEWEST_SEEN
    comparison, fact = _against("trailing", place, counts, total, len(window), seen)
    if fact is not None and not known:
        comparison, fact = replace(comparison, p_value=None), None
    yield comparison, fact


def _seen(calendar: _Calendar, rows: Numbers, numbers: NDArray[np.int64], span: int = 0) -> tuple[Numbers, Numbers]:
    """Returns (days, bins) twice: the days of the window, and what each of them had as its reference.

    With a `span` that reference is so many days: days then differ by noise and rhythm, and hardly by what wanders.
    """
    if len(rows) == 0:
        return rows, rows
    masks = np.array([calendar.among(int(number), numbers, span) for number in numbers])
    chosen = (masks.sum(axis=1) >= FEWEST_DAYS) & (calendar.today - numbers <= calendar.window)
    return rows[chosen], masks[chosen].astype(np.float64) @ rows


def _against(
    reference: Reference, place: Place, counts: Counts, other: Counts, days: int, seen: tuple[Numbers, Numbers]
) -> tuple[Comparison, _Fact | None]:
    found = Comparison(*place, counts.spec.kind, counts.spec.name, reference, rows=counts.rows)
    found = replace(found, reference_rows=other.rows, reference_days=days)
    today, before = measures.histogram(counts), measures.histogram(other)
    if min(today[1:].sum(), before[1:].sum()) < FEWEST_ROWS:
        return found, None
    places = (measures.classes if counts.spec.labels else measures.groups)(today[1:], before[1:])
    left, right = measures.grouped(today[1:], places), measures.grouped(before[1:], places)
    psi, scale = float(measures.psi(left, right)), float(measures.noise(left, right))
    usual, known = 1.0, len(seen[0])
    if known >= FEWEST_SEEN:
        usual = measures.dispersion(*(measures.grouped(side[:, 1:], places) for side in seen))
    fact = _Fact(scale, len(left) - 1, usual, known)
    p_value, beyond = fact.p_value(psi), psi - usual * fact.freedom * scale
    if today[0] or before[0]:
        p_missing, of_missing = _missing(today, before, seen)
        p_value, beyond, psi = min(1.0, 2 * min(p_value, p_missing)), beyond + of_missing, psi + of_missing
    found = replace(
        found,
        psi=psi,
        js=measures.jensen_shannon(np.append(left, today[0]), np.append(right, before[0])),
        mean_shift=_shift(counts, other),
        excess=max(0.0, beyond),
        p_value=p_value,
        bins=len(left),
        dispersion=usual,
        missing=float(today[0] / counts.rows),
        reference_missing=float(before[0] / other.rows),
    )
    return found, fact


def _missing(today: Numbers, before: Numbers, seen: tuple[Numbers, Numbers]) -> tuple[float, float]:
    """Returns the p-value of the share of missing values, and the PSI of missing against present."""
    day, reference = _two(today), _two(before)
    usual, known = 1.0, len(seen[0])
    if known >= FEWEST_SEEN:
        usual = max(1.0, float(measures.likelihood_ratio(_two(seen[0]), _two(seen[1])).mean()))
    statistic = float(measures.likelihood_ratio(day, reference))
    return measures.p_value(statistic, 1, usual, known), float(measures.psi(day, reference))


def _two(rows: Numbers) -> Numbers:
    """Returns (..., 2) of (..., bins): the missing values, and the others."""
    return np.stack([rows[..., 0], rows[..., 1:].sum(axis=-1)], axis=-1)


def _shift(counts: Counts, other: Counts) -> float | None:
    """Returns the shift of the mean in deviations of the reference; of a class, the largest change of a share."""
    if counts.spec.labels:
        apart = counts.bins / counts.rows - other.bins / other.rows
        return float(apart[np.argmax(np.abs(apart))])
    deviation = other.deviation
    if not deviation or counts.finite == 0:
        return None
    return (counts.mean - other.mean) / deviation
