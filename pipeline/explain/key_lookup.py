"""Finds the rows of one key in files. It compares each key column by itself, so that DuckDB can skip row groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

import duckdb
from duckdb import ColumnExpression, ConstantExpression

from pipeline.database.keys import canonical
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation


def split(text: str, columns: int) -> list[str]:
    r"""Returns the values in a `key_text`. Several are joined by commas; a comma within a value is written `\,`.

    Raises UsageError if the number of values differs from the number of columns.
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
    """Returns the value of each key column, in its stored type. Raises UsageError if `text` cannot be a key."""
    found = {}
    for name, part in zip(key, split(text, len(key)), strict=True):
        kind = canonical(types[name])
        try:
            cast = ConstantExpression(part).cast(kind).alias("value")
            found[name] = con.sql("SELECT 1 AS one").select(cast).fetchall()[0][0]
        except duckdb.OperationalError:
            raise  # memory, or the disk: not what was written
        except duckdb.Error as error:
            raise UsageError(f"{part!r} is not a valid {name}", expected=kind, got=str(error).splitlines()[0]) from None
    return found


def rows_of(relation: Relation, values: Mapping[str, Any]) -> Relation:
    """Returns the rows of a key. A function around a key column would force DuckDB to read every row."""
    conditions = [ColumnExpression(name) == ConstantExpression(value) for name, value in values.items()]
    return relation.filter(reduce(lambda left, right: left & right, conditions))
