"""Rows of a small day in memory: the same types and values, or a view."""

from __future__ import annotations

import duckdb
import pytest

from pipeline.database.holding import Named, few, name_rows


@pytest.fixture
def con() -> duckdb.DuckDBPyConnection:
    return duckdb.connect()


def tables(con: duckdb.DuckDBPyConnection) -> list[tuple[str]]:
    return con.execute("SELECT table_name FROM duckdb_tables()").fetchall()


@pytest.mark.parametrize(("held", "found"), [(True, [("rows",)]), (False, [])])
def test_rows_are_a_table_if_they_are_held(con: duckdb.DuckDBPyConnection, held: bool, found: list[tuple[str]]) -> None:
    rows = name_rows(con, "rows", con.sql("SELECT range AS a FROM range(3)"), held=held)
    assert tables(con) == found
    assert rows.aggregate("sum(a)").fetchall() == con.view("rows").aggregate("sum(a)").fetchall() == [(3,)]


def test_type_that_a_table_would_change_stays(con: duckdb.DuckDBPyConnection) -> None:
    name_rows(con, "rows", con.sql("SELECT 1 AS a, NULL AS b"), held=True)
    assert tables(con) == []
    assert list(map(str, con.view("rows").types)) == ["INTEGER", '"NULL"']


def test_column_that_cannot_be_read_does_not_matter_until_it_is(con: duckdb.DuckDBPyConnection) -> None:
    name_rows(con, "rows", con.sql("SELECT 1 AS a, CAST('x' || range AS INTEGER) AS b FROM range(2)"), held=True)
    assert con.execute("SELECT sum(a) FROM rows").fetchall() == [(2,)]
    with pytest.raises(duckdb.ConversionException):
        con.execute("SELECT sum(b) FROM rows").fetchall()


def test_few_are_limited_in_values_and_in_bytes() -> None:
    assert few(100_000, 10, 4_000_000)
    assert not few(100_001, 10, 0)
    assert not few(1, 1, 4_000_001)


def test_aggregates_of_named_rows_are_those_of_their_relation(con: duckdb.DuckDBPyConnection) -> None:
    con.sql('SELECT range AS "a ""b" FROM range(10)').create_view("my rows")
    named = Named(con, "my rows")
    terms = [duckdb.FunctionExpression("sum", duckdb.ColumnExpression('a "b')), duckdb.SQLExpression("count(*)")]
    assert named.aggregate(terms) == (45, 10)
