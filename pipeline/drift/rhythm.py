"""Finds columns that follow the weekday: their days differ from those before, but not from the same weekday's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.drift import distances
from pipeline.drift.comparing import FEWEST_ROWS, FEWEST_SEEN, places_of
from pipeline.drift.days_before import Calendar
from pipeline.histograms.counting import WHOLE
from pipeline.periods import Grain, Period

if TYPE_CHECKING:
    from pipeline.histograms.counting import Counts
    from pipeline.histograms.table import Profile
    from pipeline.job.config import Drift

TIMES = 3.0
"""How many times further apart days must be than days of one weekday."""


@dataclass(frozen=True)
class Rhythm:
    column_name: str
    dispersion: float
    """How many times further apart than samples days are from the window before them."""
    of_weekday: float
    """The same, from the same weekdays of the window alone."""


def weekly(ds: str, day: Profile, history: Mapping[str, Profile], config: Drift, grain: Grain) -> list[Rhythm]:
    """Returns the columns that `same_weekday = true` would compare more sharply; none if it is on already.

    `history` holds the profiles of two windows. Each day needs three of the same weekday before it: five weeks.
    """
    if grain is not Grain.day or config.same_weekday or config.window_days < 28:
        return []
    period = Period.parse(ds, grain)
    plain = Calendar(period, WHOLE, history, config)
    by_weekday = Calendar(period, WHOLE, history, config.model_copy(update={"same_weekday": True}))
    found = []
    for name, counts in day.get(WHOLE, {}).items():
        if (usual := _dispersion(plain, counts)) is None or usual < TIMES:  # no dispersion is less than 1
            continue
        of_weekday = _dispersion(by_weekday, counts)
        if of_weekday is not None and usual >= TIMES * of_weekday:
            found.append(Rhythm(name, usual, of_weekday))
    return found


def _dispersion(calendar: Calendar, counts: Counts) -> float | None:
    """Returns the usual distance of the column's days, or None if too few days or rows are known."""
    if counts.spec.kind == "confidence":
        return None
    rows, numbers = calendar.rows(counts)
    seen = calendar.seen(rows, numbers)
    if len(seen[0]) < FEWEST_SEEN:
        return None
    today, before = distances.histogram(counts), rows[calendar.among(calendar.today, numbers)].sum(axis=0)
    if min(today[1:].sum(), before[1:].sum()) < FEWEST_ROWS:
        return None
    places = places_of(counts, today, before)
    return distances.dispersion(*(distances.grouped(side[:, 1:], places) for side in seen))
