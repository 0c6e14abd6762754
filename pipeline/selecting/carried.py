"""Compares carried values of the input with stored ones, whose types may differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from duckdb import ColumnExpression, ConstantExpression, FunctionExpression

from pipeline.database.aligning import NUMBER
from pipeline.database.keys import INTEGERS

if TYPE_CHECKING:
    from duckdb import Expression

WHOLE = {*INTEGERS, "UBIGINT", "HUGEINT"}


def hash_of(columns: Sequence[str], types: Mapping[str, str], others: Mapping[str, str]) -> Expression:
    """Returns a hash over columns of some types that can be compared with one over the same columns of other types.

    Numbers of different types are compared as numbers, other values of different types as text. A column that one side
    lacks counts as NULL there.
    """

    def comparable(name: str) -> Expression:
        if name not in types:
            return ConstantExpression(None).cast(others[name])
        kinds = {types[name], others.get(name, types[name])}
        if len(kinds) == 1:
            return ColumnExpression(name)
        if kinds <= WHOLE:
            return ColumnExpression(name).cast("HUGEINT")
        return ColumnExpression(name).cast("DOUBLE" if all(map(NUMBER.fullmatch, kinds)) else "VARCHAR")

    return FunctionExpression("hash", *map(comparable, columns))
