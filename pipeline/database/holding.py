"""Rows that several queries read, by name: held in memory if they are few.

A query over Parquet files takes longer to be planned than a small day to be read, since each opens the files again. So
the rows of a small day are read once, into a table. Nothing else depends on whether rows are held.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import duckdb
from duckdb import ColumnExpression

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation
    from duckdb import Expression

VALUES, BYTES = 1_000_000, 4_000_000
"""Number of values, and size of their files, up to which rows are held."""
UNTYPED = '"NULL"'
"""Type of a column that is NULL as a constant: a table would give it another type."""


@dataclass(frozen=True)
class Named:
    """Rows that have a name in a connection."""

    con: Connection
    name: str

    @property
    def relation(self) -> Relation:
        return self.con.view(self.name)

    def aggregate(self, terms: Sequence[Expression]) -> tuple[Any, ...]:
        """Returns aggregates over all rows. A relation would plan the query twice: to tell the types, and to run it."""
        text = f"SELECT {', '.join(map(str, terms))} FROM {ColumnExpression(self.name)}"  # noqa: S608 - all is quoted
        (row,) = self.con.execute(text).fetchall()
        return row


def few(rows: int, columns: int, size: int) -> bool:
    """Tells whether rows are held; `size` is that of their files, in bytes."""
    return rows * columns <= VALUES and size <= BYTES


def name_rows(con: Connection, name: str, rows: Relation, *, held: bool) -> Relation:
    """Gives rows a name in a connection, as a table if they are to be held, else as a view; returns them."""
    if held and UNTYPED not in map(str, rows.types):
        try:
            rows.create(name)
        except duckdb.InternalException:
            raise  # which has put an end to the instance
        except duckdb.Error:  # perhaps about a column that no query reads
            pass
        else:
            return con.table(name)
    rows.create_view(name)
    return rows
