"""Compares the profile of a day with that of the training data and with those of the days before it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING, Literal

import numpy as np

from pipeline.drift import measures
from pipeline.drift.counting import Counts, merged
from pipeline.job import Drift

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
    facts: list[tuple[int, float, int, float, int, float]] = []
    for place, columns in day.items():
        calendar = _Calendar(ds, place, history, config)
        for counts in columns.values():
            if counts.spec.kind == "confidence":
                continue
            for comparison, fact in _compare(place, counts, training, calendar):
                if fact is not None:
                    facts.append((len(found), *fact))
                found.append(comparison)
    adjusted = measures.holm([fact[-1] for fact in facts])
    for (index, scale, freedom, dispersion, days, p_value), p_adjusted in zip(facts, adjusted, strict=True):
        needed = measures.quantile(config.level / len(facts), freedom, dispersion, days) * scale
        one = replace(found[index], p_value=p_value, p_adjusted=p_adjusted, threshold=needed)
        found[index] = replace(one, outcome=_outcome(one, config))
    return found


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

    def among(self, number: int, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        apart = number - numbers
        found: NDArray[np.bool_] = (apart > 0) & (apart <= self.window) & (apart % self.step == 0)
        return found

    def alike(self, counts: Counts) -> NDArray[np.bool_]:
        """Returns which days have the column, counted with the same edges, and rows: (days,)."""
        name = counts.spec.name
        known = (part.get(name) for part in self.parts)
        return np.array([each is not None and each.spec == counts.spec and each.rows > 0 for each in known], bool)


def _compare(
    place: Place, counts: Counts, training: Profile | None, calendar: _Calendar
) -> Iterator[tuple[Comparison, tuple[float, int, float, int, float] | None]]:
    """Yields a comparison for each reference; with scale, degrees of freedom, dispersion, its days and the p-value."""
    name = counts.spec.name
    alike = calendar.alike(counts)
    rows = np.array([measures.histogram(part[name]) for part, good in zip(calendar.parts, alike, strict=True) if good])
    numbers = calendar.numbers[alike]
    trained = (training or {}).get(place, {}).get(name)
    if trained is not None and trained.spec == counts.spec:
        yield _against("training", place, counts, trained, 0, _seen(calendar, rows, numbers))
    chosen = calendar.before(calendar.today)[alike]
    days = [part[name] for part, good in zip(calendar.parts, alike, strict=True) if good]
    window = [{name: each} for each, good in zip(days, chosen, strict=True) if good]
    total = merged(window).get(name, Counts(counts.spec))
    seen = _seen(calendar, rows, numbers)
    known = len(window) >= FEWEST_DAYS and len(seen[0]) >= FEWEST_SEEN
    comparison, fact = _against("trailing", place, counts, total, len(window), seen)
    if fact is not None and not known:
        comparison, fact = replace(comparison, threshold=None), None
    yield comparison, fact


def _seen(calendar: _Calendar, rows: Numbers, numbers: NDArray[np.int64]) -> tuple[list[Numbers], list[Numbers]]:
    """Returns the fine histograms of the days of the window, and of what each of them had as its reference."""
    days: list[Numbers] = []
    references: list[Numbers] = []
    for index, number in enumerate(numbers):
        if calendar.today - number > calendar.window:
            continue
        mask = calendar.among(int(number), numbers)
        if mask.sum() >= FEWEST_DAYS:
            days.append(rows[index])
            references.append(rows[mask].sum(axis=0))
    return days, references


def _against(
    reference: Reference,
    place: Place,
    counts: Counts,
    other: Counts,
    days: int,
    seen: tuple[Sequence[Numbers], Sequence[Numbers]],
) -> tuple[Comparison, tuple[float, int, float, int, float] | None]:
    found = Comparison(*place, counts.spec.kind, counts.spec.name, reference, rows=counts.rows)
    found = replace(found, reference_rows=other.rows, reference_days=days)
    today, before = measures.histogram(counts), measures.histogram(other)
    if min(counts.rows, other.rows) < FEWEST_ROWS:
        return found, None
    places = (measures.classes if counts.spec.labels else measures.groups)(today, before)
    left, right = measures.grouped(today, places), measures.grouped(before, places)
    psi, scale = float(measures.psi(left, right)), float(measures.noise(left, right))
    freedom, dispersion = len(left) - 1, 1.0
    if len(seen[0]) >= FEWEST_SEEN:
        usual = [[measures.grouped(each, places) for each in side] for side in seen]
        dispersion = measures.dispersion(*usual)
    found = replace(
        found,
        psi=psi,
        js=measures.jensen_shannon(left, right),
        mean_shift=_shift(counts, other),
        excess=max(0.0, psi - dispersion * freedom * scale),
        bins=len(left),
        dispersion=dispersion,
        missing=float(today[0] / counts.rows),
        reference_missing=float(before[0] / other.rows),
    )
    return found, (
        scale,
        freedom,
        dispersion,
        len(seen[0]),
        measures.p_value(psi / scale, freedom, dispersion, len(seen[0])),
    )


def _shift(counts: Counts, other: Counts) -> float | None:
    """Returns the shift of the mean in deviations of the reference; of a class, the largest change of a share."""
    if counts.spec.labels:
        apart = counts.bins / counts.rows - other.bins / other.rows
        return float(apart[np.argmax(np.abs(apart))])
    deviation = other.deviation
    if not deviation or counts.finite == 0:
        return None
    return (counts.mean - other.mean) / deviation
