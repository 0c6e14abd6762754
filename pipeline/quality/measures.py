"""Measures each feature of a day, for the built-in checks of the input."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from duckdb import CaseExpression, ColumnExpression, ConstantExpression, FunctionExpression

from pipeline.database import wide
from pipeline.database.connection import column_types
from pipeline.database.holding import Named
from pipeline.model.schema_check import NUMBER
from pipeline.selecting.source import FILE

if TYPE_CHECKING:
    from duckdb import DuckDBPyRelation as Relation
    from duckdb import Expression

    from pipeline.selecting.views import DayInput


@dataclass(frozen=True)
class Feature:
    name: str
    nulls: int
    not_finite: int
    low: float | None
    high: float | None
    """Largest finite value; `low` is the smallest. None if no value is finite."""
    scale: float | None
    """Mean of ln(1 + |x|) over the finite values: shows a change of unit, and outliers hardly affect it."""

    @property
    def constant(self) -> bool:
        return self.low is not None and self.low == self.high


@dataclass(frozen=True)
class Profile:
    rows: int
    default_rows: int
    """Number of rows whose features are all 0 or NULL."""
    features: tuple[Feature, ...]


def measure(rows: Relation | Named, features: Sequence[str]) -> Profile:
    """Measures the feature columns. In a column that is not numeric, only NULLs are counted."""
    types = column_types(rows.relation if isinstance(rows, Named) else rows)
    numeric = [bool(NUMBER.fullmatch(types[name])) for name in features]
    values = [_number(name) if number else _stand_in(name) for name, number in zip(features, numeric, strict=True)]
    whole = [FunctionExpression("count_star"), FunctionExpression("count_if", wide.all_zero(values))]
    (count, default_rows), plain = wide.aggregate(rows, whole, values, OF_FINITE)
    measured = [(present, 0, *sizes) for present, *sizes in plain]
    others = [place for place, (_, _, *ends, _) in enumerate(measured) if not all(map(_is_finite, ends))]
    if others:
        _, again = wide.aggregate(rows, whole[:1], [values[place] for place in others], TERMS)
        for place, found_again in zip(others, again, strict=True):
            measured[place] = found_again
    found = []
    for name, number, (present, not_finite, *sizes) in zip(features, numeric, measured, strict=True):
        low, high, scale = sizes if number else (None, None, None)
        found.append(Feature(name, count - (present or 0), not_finite or 0, low, high, scale))
    return Profile(count, default_rows or 0, tuple(found))


def scale_by_file(day: DayInput, feature: str) -> list[tuple[str, float]]:
    """Returns the scale of a feature in each file of a day, by path; none if the rows are those of a SELECT."""
    rows = day.by_file()
    if rows is None:
        return []
    scale = _scale(_number(feature)).alias("scale")
    found = rows.aggregate([ColumnExpression(FILE).alias("path"), scale]).order("path").fetchall()
    return [(path, value) for path, value in found if value is not None]


def _number(name: str) -> Expression:
    return ColumnExpression(name).cast("DOUBLE")


def _stand_in(name: str) -> Expression:
    """Returns a number in place of any other value, and NULL where there is none."""
    return CaseExpression(ColumnExpression(name).isnotnull(), ConstantExpression(1.0))


def _is_finite(end: float | None) -> bool:
    return end is None or math.isfinite(end)


def _finite(value: Expression) -> Expression:
    return CaseExpression(FunctionExpression("isfinite", value), value)


def _scale(value: Expression) -> Expression:
    return _scale_of_finite(_finite(value))


def _scale_of_finite(value: Expression) -> Expression:
    size = FunctionExpression("abs", value)
    return FunctionExpression("avg", FunctionExpression("ln", ConstantExpression(1) + size))


OF_FINITE: tuple[Callable[[Expression], Expression], ...] = (
    lambda value: FunctionExpression("count", value),
    lambda value: FunctionExpression("min", value),
    lambda value: FunctionExpression("max", value),
    _scale_of_finite,
)
"""Values, and the lowest, the highest and the scale, if all are finite: which they are if the lowest and the highest
are."""
TERMS: tuple[Callable[[Expression], Expression], ...] = (
    lambda value: FunctionExpression("count", value),
    lambda value: FunctionExpression("count_if", ~FunctionExpression("isfinite", value)),
    lambda value: FunctionExpression("min", _finite(value)),
    lambda value: FunctionExpression("max", _finite(value)),
    _scale,
)
"""Values, values that are not finite, and of the finite ones the lowest, the highest and the scale."""
