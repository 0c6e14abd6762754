"""Scaled numbers: the steps of a signature's `scale`, in 64 bits, and rounded to float32 once, at the end.

Rounding first would lose digits that matter: in float32, milliseconds since 1970 differ by 131,072.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

import numpy as np

from pipeline.errors import ModelRefused
from pipeline.model.inputs import Clip, Fit, Log1p, MinMax, Standard

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pipeline.model.inputs import Scaled, Step

AT_ONCE = 1_000_000
"""Number of values that are scaled at once."""
MOST_EXPONENT = 50.0
"""Largest logarithm of a synthetic value."""


def put(values: NDArray[np.float64], how: Scaled, out: NDArray[np.float32]) -> None:
    """Fills `out` with the scaled values; both are (rows, columns)."""
    rows = max(1, AT_ONCE // values.shape[1])
    for start in range(0, len(values), rows):
        part = values[start : start + rows]
        if how.null is not None:
            part = np.where(np.isnan(part), how.null, part)
        out[start : start + rows] = scaled(part, how.scale)


def scaled(values: NDArray[np.float64], steps: Sequence[Step]) -> NDArray[np.float64]:
    """Returns the values, (rows, columns), after the steps. NaN stays NaN, and what is infinite stays infinite."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for step in steps:
            match step:
                case Clip(clip=(low, high)):
                    values = np.where(np.isinf(values), values, np.clip(values, low, high))
                case Log1p():
                    values = np.where(values < -1, -np.inf, np.log1p(values))
                case Standard():
                    values = (values - np.array(step.mean)) / np.array(step.std)
                case MinMax():
                    least, most = np.array(step.min), np.array(step.max)
                    values = (values - least) / (most - least)
                case Fit():
                    raise AssertionError("registration replaces it by values")
                case _:
                    assert_never(step)
    return values


def unscaled(values: NDArray[np.float32], how: Scaled) -> NDArray[np.float64]:
    """Returns numbers, (rows, columns), that are scaled to about these values."""
    found = values.astype(np.float64)
    for step in reversed(how.scale):
        match step:
            case Clip(clip=(low, high)):
                found = np.clip(found, low, high)
            case Log1p():
                found = np.expm1(np.minimum(np.abs(found), MOST_EXPONENT))
            case Standard():
                found = found * np.array(step.std) + np.array(step.mean)
            case MinMax():
                least, most = np.array(step.min), np.array(step.max)
                found = found * (most - least) + least
            case Fit():
                raise AssertionError("registration replaces it by values")
            case _:
                assert_never(step)
    return found


class Moments:
    """Mean, standard deviation and limits of each column of float64 (rows, columns), over its finite values."""

    def __init__(self, columns: int) -> None:
        self.count, self.mean, self.m2 = np.zeros(columns), np.zeros(columns), np.zeros(columns)
        self.low, self.high = np.full(columns, np.inf), np.full(columns, -np.inf)

    def add(self, values: NDArray[np.float64]) -> None:
        finite = np.isfinite(values)
        count = finite.sum(axis=0)
        mean = np.where(finite, values, 0).sum(axis=0) / np.maximum(count, 1)
        m2 = (np.where(finite, values - mean, 0) ** 2).sum(axis=0)
        total, apart = self.count + count, mean - self.mean
        share = count / np.maximum(total, 1)
        self.m2 += m2 + apart**2 * self.count * share
        self.mean += apart * share
        self.count = total
        self.low = np.minimum(self.low, np.where(finite, values, np.inf).min(axis=0, initial=np.inf))
        self.high = np.maximum(self.high, np.where(finite, values, -np.inf).max(axis=0, initial=-np.inf))

    def step(self, fit: Fit, name: str, where: object) -> Standard | MinMax:
        """Returns the step with these values. Raises ModelRefused if all values of a column are the same, or none."""
        deviation = np.sqrt(self.m2 / np.maximum(self.count, 1))
        if not (self.count > 0).all() or not (self.low < self.high).all():
            raise ModelRefused(
                f"feature {name} cannot be scaled as the training data is: it has not two different values",
                where=where,
                got=f"always {self.low[0]:g}" if self.count[0] else "no finite value",
                next_step="give the values by hand, or leave the feature unscaled",
            )
        parts = (self.mean, deviation) if fit.fit == "mean_std" else (self.low, self.high)
        first, second = (tuple(map(float, part)) if len(part) > 1 else float(part[0]) for part in parts)
        return Standard(mean=first, std=second) if fit.fit == "mean_std" else MinMax(min=first, max=second)


def words(values: NDArray[np.float64]) -> NDArray[np.uint32]:
    """Returns the bits of float64 (rows, columns) as uint32 (rows, 2 columns); NaN are one value, and -0.0 is 0.0."""
    values = values + 0.0
    values[np.isnan(values)] = np.nan
    return values.view(np.uint32).reshape(len(values), -1)
