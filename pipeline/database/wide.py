"""Computes over the columns of a table, however many there are.

DuckDB plans a query with several expressions per column in time quadratic in the number of columns, and nests a sum of
columns as deep as there are columns. So many columns are put into one list per row: a list function takes it at once,
and unnested it is one column. A few columns are faster as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import add, and_
from typing import TYPE_CHECKING, Any

from duckdb import (
    CaseExpression,
    CoalesceOperator,
    ColumnExpression,
    ConstantExpression,
    FunctionExpression,
    LambdaExpression,
)

from pipeline.database.holding import Named

if TYPE_CHECKING:
    from duckdb import DuckDBPyRelation as Relation
    from duckdb import Expression

FEW = 32
"""Maximum number of columns that are taken as they are."""


def all_within(columns: Sequence[Expression], low: float, high: float) -> Expression:
    """Tells whether each number of a row is from `low` to `high`; NULL does not count, and NaN is above any other."""
    least, most = ConstantExpression(low), ConstantExpression(high)
    if len(columns) > FEW:
        return (_of_list("list_min", columns) >= least) & (_of_list("list_max", columns) <= most)
    true = ConstantExpression(value=True)  # not `least` and `greatest`, which take six times as long
    return reduce(and_, (CoalesceOperator((column >= least) & (column <= most), true) for column in columns))


def all_zero(columns: Sequence[Expression]) -> Expression:
    """Tells whether each number of a row is 0 or NULL; for few columns, NULL instead of false."""
    zero = ConstantExpression(0.0)
    if len(columns) > FEW:
        found = (_of_list(name, columns) for name in ("list_min", "list_max"))
        return reduce(and_, (CoalesceOperator(value, zero) == zero for value in found))
    *others, last = (CoalesceOperator(column, zero) == zero for column in columns)
    return reduce(lambda found, other: CaseExpression(other, found), reversed(others), last)  # ends at the first other


def total(columns: Sequence[Expression], of: Callable[[Expression], Expression] = lambda value: value) -> Expression:
    """Returns the sum of a row as DOUBLE, or the sum of what `of` makes of each of its numbers.

    It is not finite if any number is not: no sum of float32 overflows.
    """
    if len(columns) <= FEW:
        return reduce(add, (of(column.cast("DOUBLE")) for column in columns))
    each = FunctionExpression(
        "list_transform", _listed(columns), LambdaExpression("value", of(ColumnExpression("value")))
    )
    return FunctionExpression("list_sum", each)


def select(relation: Relation, columns: Mapping[str, Expression]) -> Relation:
    """Returns expressions over the rows of a relation, by name.

    DuckDB's client compares each expression that it is given with the names of all columns, but text with none.
    """
    return relation.select(", ".join(f"{value} AS {ColumnExpression(name)}" for name, value in columns.items()))


def aggregate(
    rows: Relation | Named,
    whole: Sequence[Expression],
    columns: Sequence[Expression],
    terms: Sequence[Callable[[Expression], Expression]],
) -> tuple[tuple[Any, ...], list[tuple[Any, ...]]]:
    """Returns the aggregates `whole` of some rows, and the aggregates `terms` of each column of numbers, in order.

    Without rows, all aggregates of a column are None if there are many columns.
    """
    named = [term.alias(f"t{number}") for number, term in enumerate(whole)]
    if len(columns) <= FEW:
        of_columns = [term(column) for column in columns for term in terms]
        named += [term.alias(f"c{number}") for number, term in enumerate(of_columns)]
        row = _aggregated(rows, named)
        rest, size = row[len(whole) :], len(terms)
        return row[: len(whole)], [rest[at : at + size] for at in range(0, len(rest), size)]
    row = _aggregated(rows, named)
    relation = rows.relation if isinstance(rows, Named) else rows
    numbers = FunctionExpression("range", ConstantExpression(len(columns)))
    values = relation.select(_listed(columns).alias("listed")).select(
        FunctionExpression("unnest", numbers).alias("number"),
        FunctionExpression("unnest", ColumnExpression("listed")).alias("value"),
    )
    number, value = ColumnExpression("number"), ColumnExpression("value")
    of_value = [term(value).alias(f"c{index}") for index, term in enumerate(terms)]
    found = {index: rest for index, *rest in values.aggregate([number, *of_value], "number").fetchall()}
    return row, [tuple(found.get(index, [None] * len(terms))) for index in range(len(columns))]


def _aggregated(rows: Relation | Named, terms: Sequence[Expression]) -> tuple[Any, ...]:
    if isinstance(rows, Named):
        return rows.aggregate(terms)
    (row,) = rows.aggregate(list(terms)).fetchall()
    return row


def _of_list(function: str, columns: Sequence[Expression]) -> Expression:
    return FunctionExpression(function, _listed(columns))


def _listed(columns: Sequence[Expression]) -> Expression:
    return FunctionExpression("list_value", *(column.cast("DOUBLE") for column in columns))
