"""Finds the rows of one key in files: by a comparison with each of its columns, so that DuckDB can skip row groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

import duckdb
from duckdb import ColumnExpression, ConstantExpression

from pipeline.errors import UsageError
from pipeline.keys import canonical

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation


def split(text: str, columns: int) -> list[str]:
    r"""Returns the values in a `key_text`: of several columns joined by commas, and a comma within one is `\,`.

    Raises UsageError if there are more or fewer values than columns.
    """
    if columns == 1:
        return [text]
    values, escaped = [""], False
    for character in text:
        if escaped or character not in "\\,":
            values[-1] += character
            escaped = False
        elif character == "\\":
            escaped = True
        else:
            values.append("")
    if len(values) != columns:
        raise UsageError(
            f"the key has {columns} columns",
            expected=f"{columns} values joined by commas; a comma within one is written \\,",
            got=text,
        )
    return values


def parse(con: Connection, text: str, key: Sequence[str], types: Mapping[str, str]) -> dict[str, Any]:
    """Returns the value of each key column, in the type under which it is stored. Raises UsageError."""
    found = {}
    for name, part in zip(key, split(text, len(key)), strict=True):
        kind = canonical(types[name])
        try:
            cast = ConstantExpression(part).cast(kind).alias("value")
            found[name] = con.sql("SELECT 1 AS one").select(cast).fetchall()[0][0]
        except duckdb.Error as error:
            raise UsageError(f"{part!r} cannot be a {name}", expected=kind, got=str(error).splitlines()[0]) from None
    return found


def rows_of(relation: Relation, values: Mapping[str, Any]) -> Relation:
    """Returns the rows of a key. No function stands around its columns, or each row would have to be read."""
    conditions = [ColumnExpression(name) == ConstantExpression(value) for name, value in values.items()]
    return relation.filter(reduce(lambda left, right: left & right, conditions))
