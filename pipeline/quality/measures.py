"""A few numbers about each feature of a day, in one pass: for the built-in checks of the input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

from duckdb import CaseExpression, ColumnExpression, ConstantExpression, FunctionExpression

from pipeline import database
from pipeline.model.fit import NUMBER

if TYPE_CHECKING:
    from duckdb import DuckDBPyRelation as Relation
    from duckdb import Expression


@dataclass(frozen=True)
class Feature:
    name: str
    nulls: int
    not_finite: int
    low: float | None
    high: float | None
    """Of the finite values."""
    scale: float | None
    """Mean of ln(1 + |x|) over the finite values: tells another unit, and hardly feels an outlier."""

    @property
    def constant(self) -> bool:
        return self.low is not None and self.low == self.high


@dataclass(frozen=True)
class Profile:
    rows: int
    default_rows: int
    """Rows all of whose features are 0 or NULL."""
    features: tuple[Feature, ...]


def measure(relation: Relation, features: Sequence[str]) -> Profile:
    """Reads the feature columns once. Of one that is no number, only what is NULL counts."""
    zero = ConstantExpression(0)
    terms = [FunctionExpression("count_star")]
    types = database.schema(relation)
    values = {
        name: ColumnExpression(name).cast("DOUBLE") if NUMBER.fullmatch(types[name]) else None for name in features
    }
    defaults: list[Expression] = [
        ColumnExpression(name).isnull() if value is None else value.isnull() | (value == zero)
        for name, value in values.items()
    ]
    terms.append(FunctionExpression("count_if", reduce(lambda left, right: left & right, defaults)))
    for name, value in values.items():
        terms += [FunctionExpression("count", ColumnExpression(name)), *_of_number(value)]
    (row,) = relation.aggregate([term.alias(f"t{number}") for number, term in enumerate(terms)]).fetchall()
    rows, default_rows, *numbers = row
    found = []
    for index, name in enumerate(features):
        present, not_finite, low, high, scale = numbers[5 * index : 5 * index + 5]
        found.append(Feature(name, rows - present, not_finite or 0, low, high, scale))  # count_if of NULLs is NULL
    return Profile(rows, default_rows or 0, tuple(found))


def _of_number(value: Expression | None) -> list[Expression]:
    if value is None:
        return [ConstantExpression(None)] * 4
    finite = FunctionExpression("isfinite", value)
    sane = CaseExpression(finite, value)
    size = FunctionExpression("ln", ConstantExpression(1) + FunctionExpression("abs", sane))
    return [
        FunctionExpression("count_if", ~finite),
        FunctionExpression("min", sane),
        FunctionExpression("max", sane),
        FunctionExpression("avg", size),
    ]
