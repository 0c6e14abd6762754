"""Runs SQL that a person wrote: one SELECT over the views, which can neither write nor read any other file.

What DuckDB itself parses is looked at, not the text: only SELECTs (since 2.0 `WITH x AS (COPY ...)` is inside one), and
only table functions that touch nothing. Then the connection is locked to the files of the views. Both hold alone.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import duckdb
from duckdb import StarExpression

from pipeline import database, views
from pipeline.errors import QueryRefused, UsageError, nearest
from pipeline.job import Job
from pipeline.lake import Lake
from pipeline.queries import NamedQuery

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation

TIMEOUT_S = 60.0
MEMORY_LIMIT = "400MB"
BATCH_ROWS = 10_000

EXPLAIN = re.compile(r"\s*EXPLAIN\s+(ANALYZE\s+)?", re.IGNORECASE)
PARAMETER = re.compile(r"\$(?P<name>\w+) (?P<type>[A-Z]+): (?P<meaning>.*?(?:default (?P<default>\S+).*)?)")
NODES = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}
FUNCTIONS = {
    *("unnest", "range", "generate_series", "json_each", "json_tree", "repeat", "summary"),
    *("duckdb_columns", "duckdb_functions", "duckdb_keywords", "duckdb_settings", "duckdb_types", "duckdb_views"),
}
"""The table functions that a query may call. Others read files, run SQL from text, take pointers, or change settings."""


@dataclass(frozen=True)
class Limits:
    timeout_s: float = TIMEOUT_S
    """Of DuckDB's own work; the time of whoever takes the rows does not count."""
    memory_limit: str = MEMORY_LIMIT
    threads: int | None = None


@dataclass(frozen=True)
class Parameter:
    """A line `-- $name TYPE: meaning, default VALUE` of a query's header."""

    name: str
    type: str
    meaning: str
    default: str | None

    @property
    def required(self) -> bool:
        return self.default is None


class Result:
    """The rows of a query, not yet computed."""

    def __init__(self, relation: Relation, clock: _Clock) -> None:
        self._relation = relation
        self._clock = clock
        self.columns: list[str] = list(relation.columns)

    def as_text(self) -> Result:
        """Returns the same rows with each value as DuckDB writes it."""
        columns = [duckdb.ColumnExpression(name).cast("VARCHAR").alias(name) for name in self.columns]
        return self._with(lambda: self._relation.select(*columns))

    def as_json(self) -> Result:
        """Returns one column: each row as a JSON object, in which NaN and infinities stand as DuckDB writes them."""
        return self._with(lambda: self._relation.set_alias("row").select(duckdb.SQLExpression('to_json("row")')))

    def count(self) -> int:
        """Returns the number of rows, computed apart from them."""
        with self._clock.working():
            return int(self._relation.aggregate("count(*)").fetchall()[0][0])

    def batches(self, rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """Yields the rows as they are computed."""
        with self._clock.working():
            reader = self._relation.to_arrow_reader(rows)
        with reader:
            while (batch := self._next(reader)) is not None:
                yield batch

    def _next(self, reader: pa.RecordBatchReader) -> pa.RecordBatch | None:
        with self._clock.working():
            return next(reader, None)

    def _with(self, change: Callable[[], Relation]) -> Result:
        with self._clock.working():
            return Result(change(), self._clock)


@contextmanager
def run(
    lake: Lake,
    text: str,
    values: Mapping[str, Any] | None = None,
    *,
    job: Callable[[], Job] | None = None,
    limits: Limits = Limits(),
) -> Iterator[Result]:
    """Yields the result of one SELECT, or of EXPLAIN of one, over the views of `views.py`.

    `values` are bound to its `$parameters`. `job` finds the job whose input is `unscored`; it is called if that is named.
    Raises QueryRefused for what is no such query, fails, or takes longer or more memory than the limits.
    """
    with database.connection(limits.memory_limit, limits.threads) as con:
        lake.storage.attach(con)
        clock = _Clock(con, limits)
        with clock.working():
            check(con, text)
        _lock(con, _create_views(con, lake, text, job))
        with clock.working():
            relation = con.sql(text, params=dict(values) if values else None).select(StarExpression())
        yield Result(relation, clock)


def check(con: Connection, text: str) -> None:
    """Raises QueryRefused unless the text is one SELECT, or EXPLAIN of one, that changes nothing and opens no file."""
    inner = EXPLAIN.sub("", text, count=1) if EXPLAIN.match(text) else text
    statements = con.extract_statements(inner)
    kinds = [statement.type.name for statement in statements]
    if kinds == ["MULTI"]:
        raise QueryRefused("PIVOT works only with its values: PIVOT ... ON column IN ('a', 'b') USING ...")
    if kinds != ["SELECT"]:
        raise QueryRefused("a query is one SELECT", expected="SELECT ...", got=", ".join(kinds) or "nothing")
    parsed = con.execute("SELECT json_serialize_sql($text::VARCHAR)", {"text": inner}).fetchall()[0][0]
    try:
        tree = json.loads(parsed, object_hook=_checked)
    except RecursionError:
        raise QueryRefused("the query is nested too deeply") from None
    if tree["error"]:
        raise QueryRefused("DuckDB does not take this for a SELECT", got=tree["error_message"])


def _checked(node: dict[str, Any]) -> dict[str, Any]:
    """Looks at one node of the parsed query. Raises QueryRefused."""
    kind = str(node.get("type"))
    if kind.endswith("_NODE") and kind not in NODES:
        raise QueryRefused("a query may only read", expected="SELECT", got=kind.split("_")[0])
    if kind == "TABLE_FUNCTION" and (name := node["function"]["function_name"].lower()) not in FUNCTIONS:
        raise QueryRefused(
            f"a query may not call {name}()",
            expected=f"a view ({', '.join(views.NAMES)}, unscored), or {', '.join(sorted(FUNCTIONS))}",
        )
    return node


def _create_views(con: Connection, lake: Lake, text: str, job: Callable[[], Job] | None) -> list[str]:
    """Makes the views that the text names, or all if it names none (SHOW TABLES); returns the files to be read."""
    words = set(re.findall(r"\w+", text.lower()))
    files = views.create(con, lake, words.intersection(views.NAMES) or views.NAMES)
    if job is not None and "unscored" in words:
        files += views.create_unscored(con, lake, job())
    return files


def _lock(con: Connection, files: list[str]) -> None:
    """From here on the connection reads these files, its own temporary ones, and no others."""
    con.execute("SET TimeZone = 'UTC'")
    con.execute("SET allowed_paths = $files", {"files": files})
    con.execute("SET enable_external_access = false")
    con.execute("SET lock_configuration = true")
