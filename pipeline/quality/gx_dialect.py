"""A DuckDB dialect for SQLAlchemy, as far as Great Expectations needs it to read one view of an open connection.

It differs from SQLAlchemy's defaults in four ways. Great Expectations closes a connection before it fetches, so each
result is fetched at once (an expectation's result is one row; raw values are only requested if the job wants samples).
Column types come from information_schema. The attribute `DremioDialect` makes Great Expectations write REGEXP_MATCHES,
which DuckDB understands. All names are quoted. Only what docs/quality.md lists is tested.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import duckdb
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.pool import StaticPool
from sqlalchemy.sql.compiler import IdentifierPreparer


class Connection(Protocol):
    """What is needed of DuckDB's connection, in this process or another one."""

    @property
    def description(self) -> Any: ...

    def execute(self, query: str, parameters: list[Any], /) -> object: ...

    def fetchall(self) -> list[Any]: ...


COLUMNS = """
    SELECT column_name, data_type FROM information_schema.columns
    WHERE table_catalog = current_database() AND table_name = ?
    ORDER BY ordinal_position
"""


class _Cursor:
    """A DB-API cursor that holds its whole result."""

    arraysize = 1

    def __init__(self, con: Connection) -> None:
        self._con = con
        self._rows: list[tuple[Any, ...]] = []
        self.description: list[tuple[Any, ...]] | None = None
        self.rowcount = -1

    def execute(self, text: str, parameters: Sequence[Any] = ()) -> None:
        self._con.execute(text, list(parameters))
        self.description = self._con.description
        self._rows = self._con.fetchall()
        self.rowcount = len(self._rows)

    def fetchall(self) -> list[tuple[Any, ...]]:
        rows, self._rows = self._rows, []
        return rows

    def fetchmany(self, size: int | None = None) -> list[tuple[Any, ...]]:
        size = size or self.arraysize
        rows, self._rows = self._rows[:size], self._rows[size:]
        return rows

    def fetchone(self) -> tuple[Any, ...] | None:
        return self._rows.pop(0) if self._rows else None

    def close(self) -> None:
        """Does nothing: the connection belongs to the caller."""


class _Connection:
    """A DB-API connection over an open one, which stays open. Nothing is written, so there is nothing to commit."""

    def __init__(self, con: Connection) -> None:
        self._con = con

    def cursor(self) -> _Cursor:
        return _Cursor(self._con)

    def commit(self) -> None: ...

    def rollback(self) -> None: ...

    def close(self) -> None: ...


class _DBAPI:
    paramstyle = "qmark"
    Error = duckdb.Error


class _Quoting(IdentifierPreparer):
    """Quotes every name: the reserved words of DuckDB are others than those that SQLAlchemy knows."""

    def _requires_quotes(self, value: str) -> bool:
        return True


class DuckDBDialect(DefaultDialect):
    name = "duckdb"
    preparer = _Quoting
    DremioDialect = True
    supports_statement_cache = False

    def __init__(self) -> None:
        super().__init__(paramstyle="qmark")
        self.dbapi = _DBAPI

    def get_columns(self, connection: Any, table_name: str, schema: str | None = None, **_: Any) -> list[Any]:
        found = connection.exec_driver_sql(COLUMNS, (table_name,)).fetchall()
        return [{"name": name, "type": _type_called(kind), "nullable": True, "default": None} for name, kind in found]

    def has_table(self, connection: Any, table_name: str, schema: str | None = None, **_: Any) -> bool:
        return bool(connection.exec_driver_sql(COLUMNS, (table_name,)).fetchall())

    def do_rollback(self, dbapi_connection: Any) -> None: ...

    def do_commit(self, dbapi_connection: Any) -> None: ...

    def do_close(self, dbapi_connection: Any) -> None: ...


def engine(con: Connection) -> Engine:
    """Returns an engine over an open connection."""
    return Engine(StaticPool(lambda: _Connection(con)), DuckDBDialect(), sa.engine.URL.create("duckdb"))


def _type_called(kind: str) -> Any:
    """Returns SQLAlchemy's type of that name, or a new one: Great Expectations compares classes and their names."""
    known = getattr(sa.types, kind, None)
    return known() if isinstance(known, type) else type(kind, (sa.types.NullType,), {})()
