"""What a job's SELECT may read: its sources, and nothing else. Queries: tests/query/test_running.py."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from pipeline.database.gate import check_select
from pipeline.errors import QueryRefused

SOURCES = ("orders", "Shops")

READING = """
    SELECT * FROM orders
    SELECT o.id, s.name FROM orders o LEFT JOIN shops s USING (shop)
    FROM orders ASOF JOIN "Shops" USING (shop, seen)
    WITH sums AS (SELECT id, sum(a) AS a FROM orders GROUP BY id), more AS MATERIALIZED (FROM sums) SELECT * FROM more
    WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 3) SELECT * FROM orders, r
    SELECT * FROM orders WHERE id IN (WITH seen AS (FROM shops) SELECT id FROM seen)
    SELECT id, u.x FROM orders, unnest([1, 2]) AS u(x)
    SELECT * FROM (VALUES ('x', 1)) AS t(id, a)
    PIVOT orders ON shop IN ('a', 'b') USING sum(a)
    SELECT id, (SELECT max(a) FROM orders) AS top, row_number() OVER (ORDER BY a) AS n FROM orders QUALIFY n = 1
    SELECT *, $ds AS day FROM orders UNION ALL BY NAME SELECT * FROM shops
    TABLE orders
"""

OTHERS = """
    FROM '{secret}'
    SELECT * FROM read_csv('{secret}')
    SELECT * FROM read_text('{secret}')
    SELECT * FROM glob('{folder}/*')
    SELECT id, (SELECT max(a) FROM '{secret}') FROM orders
    WITH x AS (COPY orders TO '{out}') SELECT * FROM orders
    WITH x AS (INSERT INTO orders VALUES (1) RETURNING *) SELECT * FROM orders
    SELECT * FROM orders WHERE id IN (WITH "{secret}" AS (SELECT 1 AS a) SELECT a FROM orders) UNION ALL FROM "{secret}"
    FROM (DESCRIBE '{secret}')
    FROM (SUMMARIZE '{secret}')
    FROM (SHOW TABLES)
    FROM other.main.orders
    FROM main.orders
    FROM information_schema.tables
    FROM sqlite_master
    FROM duckdb_settings()
    FROM query('FROM orders')
    FROM query_table(['orders'])
    FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))
    FROM ordrs
    COPY orders TO '{out}'
    SELECT 1; SELECT 2
    PIVOT orders ON shop USING sum(a)
    EXPLAIN SELECT * FROM orders
"""


def lines(texts: str) -> list[str]:
    return [line.strip() for line in texts.strip().splitlines()]


@pytest.mark.parametrize("text", lines(READING))
def test_select_over_the_sources_passes(text: str) -> None:
    with duckdb.connect() as con:
        check_select(con, text, SOURCES)


@pytest.mark.parametrize("text", lines(OTHERS))
def test_select_that_does_more_is_refused(text: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    with duckdb.connect() as con, pytest.raises(QueryRefused):
        check_select(con, text.format(secret=secret, folder=tmp_path, out=tmp_path / "out"), SOURCES)
    assert list(tmp_path.iterdir()) == [secret]
