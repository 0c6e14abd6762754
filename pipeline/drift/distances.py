"""How far apart two histograms are, and how large that distance is by chance alone.

With n rows today and m in the reference, both drawn from one population, `PSI / (1/n + 1/m)` follows a chi-square
distribution with one degree of freedom less than there are bins (Yurdakul 2018), if every bin expects some rows. So
rare bins are merged first. Real days are not such samples: the same customers come back, weekends differ. So the
distance is also divided by `dispersion`, its usual size from one day to the next; see docs/drift.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import special

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pipeline.histograms.counting import Counts

    Numbers = NDArray[np.float64]

MOST_BINS = 10
LEAST_EXPECTED = 25.0
"""Number of rows that a bin must expect from the smaller side. With 10, the PSI's tail was twice the chi-square's."""
SMOOTHING = 0.5
"""Number of rows added to each bin, so that an empty one does not make the PSI infinite."""


def histogram(counts: Counts) -> Numbers:
    """Returns (bins + 1,): the number of NULL and NaN first, which is tested separately, then the bins in order."""
    found: Numbers = histograms([counts], len(counts.bins))[0]
    return found


def histograms(days: Sequence[Counts], bins: int) -> Numbers:
    """Returns (days, bins + 1): the histogram of each day, counted with the same edges or labels."""
    found = np.zeros((len(days), bins + 1))
    if days:
        found[:, 1:] = [counts.bins for counts in days]
        found[:, 0] = [counts.rows for counts in days] - found[:, 1:].sum(axis=1)
    return found


def groups(day: Numbers, reference: Numbers) -> NDArray[np.intp]:
    """Returns for each fine bin (bins,) the number of the group in which it is compared.

    Neighbours are merged until a group holds a tenth of the reference and expects LEAST_EXPECTED rows on both sides.
    """
    pooled, smaller = day + reference, min(day.sum(), reference.sum())
    expected, share = (pooled / pooled.sum() * smaller).tolist(), (reference / reference.sum()).tolist()
    found = np.zeros(len(day), np.intp)
    group, rows, mass = 0, 0.0, 0.0
    for index in range(len(day)):
        found[index] = group
        rows, mass = rows + expected[index], mass + share[index]
        if rows >= LEAST_EXPECTED and mass >= (1 - 1e-9) / MOST_BINS:
            group, rows, mass = group + 1, 0.0, 0.0
    if rows < LEAST_EXPECTED:
        found[found == group] = max(group - 1, 0)
    return found


def classes(day: Numbers, reference: Numbers) -> NDArray[np.intp]:
    """Returns the groups (classes,) of a column of classes: rare ones share a group, each other one has its own."""
    pooled = day + reference
    rare = pooled / pooled.sum() * min(day.sum(), reference.sum()) < LEAST_EXPECTED
    found = np.cumsum(~rare)
    found[rare] = 0
    return np.unique(found, return_inverse=True)[1]


def grouped(rows: Numbers, places: NDArray[np.intp]) -> Numbers:
    """Returns (..., groups) from (..., bins): the sums of each group."""
    kept = np.zeros((len(places), int(places.max()) + 1))
    kept[np.arange(len(places)), places] = 1.0
    summed: Numbers = rows @ kept
    return summed


def psi(day: Numbers, reference: Numbers) -> Numbers:
    """Returns the population stability index (...,) of (..., groups) against (..., groups)."""
    p, q = _shares(day), _shares(reference)
    found: Numbers = ((p - q) * np.log(p / q)).sum(axis=-1)
    return found


def jensen_shannon(day: Numbers, reference: Numbers) -> float:
    """Returns the Jensen-Shannon divergence in bits, 0 to 1."""
    p, q = day / day.sum(), reference / reference.sum()
    middle = (p + q) / 2
    return float((special.rel_entr(p, middle) + special.rel_entr(q, middle)).sum() / 2 / np.log(2))


def noise(day: Numbers, reference: Numbers) -> Numbers:
    """Returns `1/n + 1/m`, the scale of a PSI between samples of one population."""
    found: Numbers = 1 / day.sum(axis=-1) + 1 / reference.sum(axis=-1)
    return found


def dispersion(day: Numbers, reference: Numbers) -> float:
    """Returns how many times further earlier days lay from their references than samples of one population; at least 1.

    Both are (days, groups): the rows of each day, and those of its reference days.
    """
    return max(1.0, float(_scaled(day, reference).mean()))


def steady_dispersion(day: Numbers, reference: Numbers) -> float:
    """Returns the dispersion of quiet weeks: as `dispersion`, but a change in the last weeks does not count.

    The days, oldest first, are taken by seven, so that each mean has a whole weekly rhythm. A lasting change adds to
    the means of two weeks at most, as days are compared with seven before them; so of four, the second smallest counts.
    """
    scaled = _scaled(day, reference)
    weeks = [float(scaled[max(end - 7, 0) : end].mean()) for end in range(len(scaled), 6, -7)] or [float(scaled.mean())]
    return max(1.0, sorted(weeks)[0 if len(weeks) < 4 else 1])


def likelihood_ratio(day: Numbers, reference: Numbers) -> Numbers:
    """Returns the statistic G of two groups, (..., 2) against (..., 2).

    It follows a chi-square distribution with one degree of freedom, even where a group expects hardly any rows: so a
    feature that was never missing before is detected from fewer rows than a bin needs.
    """
    n, m = day.sum(axis=-1, keepdims=True), reference.sum(axis=-1, keepdims=True)
    pooled = (day + reference) / (n + m)
    found: Numbers = 2 * (special.rel_entr(day, n * pooled) + special.rel_entr(reference, m * pooled)).sum(axis=-1)
    return np.maximum(found, 0.0)


def p_value(statistic: float, freedom: int, dispersion: float, days: int) -> float:
    """Returns the chance of a statistic at least this large, `PSI / (1/n + 1/m)`, between days without change.

    The dispersion is an estimate from `days` days, each one observation, so an F distribution replaces the chi-square.
    """
    if freedom < 1:
        return 1.0
    if dispersion <= 1.0:
        return float(special.chdtrc(freedom, statistic))
    return float(special.fdtrc(freedom, days, statistic / freedom / dispersion))


def quantile(level: float, freedom: int, dispersion: float, days: int) -> float:
    """Returns the statistic that days without change exceed with a chance of `level`."""
    if freedom < 1:
        return float("inf")
    if dispersion <= 1.0:
        return float(special.chdtri(freedom, level))
    return float(special.fdtri(freedom, days, 1 - level) * freedom * dispersion)


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values corrected for their number (Holm 1979): the chance that any is this small without change."""
    values = np.array(p_values, np.float64)
    order = np.argsort(values)
    factors = len(values) - np.arange(len(values))
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * factors))
    return [float(value) for value in adjusted]


def _scaled(day: Numbers, reference: Numbers) -> Numbers:
    found: Numbers = psi(day, reference) / noise(day, reference) / max(day.shape[-1] - 1, 1)
    return found


def _shares(rows: Numbers) -> Numbers:
    smoothed = rows + SMOOTHING
    found: Numbers = smoothed / smoothed.sum(axis=-1, keepdims=True)
    return found
