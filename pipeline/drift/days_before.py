"""The days before one day: which of them it is compared with, and how far apart they usually are."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from pipeline.drift import distances
from pipeline.histograms.counting import Counts, Spec, merged
from pipeline.periods import Period

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.drift.distances import Numbers
    from pipeline.histograms.table import Place, Profile
    from pipeline.job.config import Drift

FEWEST_DAYS = 3
"""Number of days that a trailing reference needs."""


class Calendar:
    """The days before one day that have one slice."""

    def __init__(self, period: Period, place: Place, history: Mapping[str, Profile], config: Drift) -> None:
        days = [day for day in sorted(history) if day < period.ds and place in history[day]]
        self.parts = [history[day][place] for day in days]
        self.numbers = np.array([Period.parse(day, period.grain).number for day in days], np.int64)
        self.today = period.number
        self.window, self.step = config.window_days, 7 if config.same_weekday else 1
        self.critical = config.critical
        self._alike: dict[Spec, NDArray[np.bool_]] = {}

    def before(self, number: int) -> NDArray[np.bool_]:
        """Returns which days are the reference of a day: (days,)."""
        return self.among(number, self.numbers)

    def among(self, number: int | NDArray[np.int64], numbers: NDArray[np.int64], span: int = 0) -> NDArray[np.bool_]:
        """Returns which of some days are the reference of a day, or of each of several (several, 1)."""
        apart = number - numbers
        found: NDArray[np.bool_] = (apart > 0) & (apart <= (span or self.window)) & (apart % self.step == 0)
        return found

    def alike(self, counts: Counts) -> NDArray[np.bool_]:
        """Returns which days have the column, counted with the same edges, and rows: (days,)."""
        if counts.spec not in self._alike:
            known = (part.get(counts.spec.name) for part in self.parts)
            found = [each is not None and each.spec == counts.spec and each.rows > 0 for each in known]
            self._alike[counts.spec] = np.array(found, bool)
        return self._alike[counts.spec]

    def rows(self, counts: Counts) -> tuple[Numbers, NDArray[np.int64]]:
        """Returns the histograms (days, bins + 1) of a column and the numbers (days,) of their days."""
        alike = self.alike(counts)
        days = [part[counts.spec.name] for part in itertools.compress(self.parts, alike)]
        return distances.histograms(days, len(counts.bins)), self.numbers[alike]

    def window_of(self, counts: Counts) -> tuple[Counts, int]:
        """Returns the sum of a column's counts over the window, and the number of its days there."""
        chosen = self.alike(counts) & self.before(self.today)
        days = [{counts.spec.name: part[counts.spec.name]} for part in itertools.compress(self.parts, chosen)]
        return merged(days).get(counts.spec.name, Counts(counts.spec)), len(days)

    def seen(self, rows: Numbers, numbers: NDArray[np.int64], span: int = 0) -> tuple[Numbers, Numbers]:
        """Returns (days, bins) twice: the rows of each day in the window, and the sum of those of its reference days.

        With a `span`, the reference is that many days: they differ by noise and weekly rhythm, hardly by slow change.
        """
        if len(rows) == 0:
            return rows, rows
        masks = self.among(numbers[:, None], numbers, span)
        chosen = (masks.sum(axis=1) >= FEWEST_DAYS) & (self.today - numbers <= self.window)
        return rows[chosen], masks[chosen].astype(np.float64) @ rows
