"""Runs SQL that a person wrote: one SELECT over the views, which can neither write nor read any other file.

What DuckDB itself parses is looked at, not the text: nothing but SELECTs (since 2.0, `WITH x AS (COPY ...)` is one
outside), and no table functions but those that touch nothing. And the connection is locked to the files of the views.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import duckdb
from duckdb import ColumnExpression, SQLExpression, StarExpression

from pipeline import database, views
from pipeline.errors import LakescoreError, QueryRefused, UsageError, nearest
from pipeline.job import Job
from pipeline.lake import Lake
from pipeline.queries import NamedQuery
from pipeline.records import check_day
from pipeline.storage import translate

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation

BATCH_ROWS = 10_000

FLAT = re.compile(
    r"U?(TINY|SMALL|BIG|HUGE)INT|U?INTEGER|FLOAT|DOUBLE|DECIMAL\(.*\)|BOOLEAN|VARCHAR|JSON|UUID|DATE|TIME(STAMP.*)?|\"NULL\""
)
EXPLAIN = re.compile(r"\s*EXPLAIN\s+(ANALYZE\s+)?", re.IGNORECASE)
PARAMETER = re.compile(r"\$(?P<name>\w+) (?P<type>[A-Z]+): (?P<meaning>.+)")
TYPES: dict[str, Callable[[str], Any]] = {"VARCHAR": str, "BIGINT": int, "DOUBLE": float}
"""Of parameters, beside DATE."""
NODES = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}
FUNCTIONS = {
    *("unnest", "range", "generate_series", "json_each", "json_tree", "repeat", "summary"),
    *("duckdb_columns", "duckdb_functions", "duckdb_keywords", "duckdb_settings", "duckdb_types", "duckdb_views"),
}
"""The table functions that a query may call. Others open files, run SQL from text, take pointers or change settings."""


@dataclass(frozen=True)
class Limits:
    timeout_s: float = 60.0
    """Of DuckDB's own work; the time of whoever takes the rows does not count."""
    memory_limit: str = "400MB"
    threads: int | None = None
    """By default, all cores."""


DEFAULT = Limits()


@dataclass(frozen=True)
class Parameter:
    """A line `-- $name TYPE: meaning, default VALUE` of a query's header."""

    type: str
    meaning: str
    default: str | None

    def value(self, name: str, text: str | None) -> Any:
        """Returns what the text says, in Python. Raises UsageError."""
        if text is None or text == self.default == "NULL":
            return None
        if self.type == "DATE":
            return date.fromisoformat(check_day(text))
        try:
            return TYPES[self.type](text)
        except ValueError:
            raise UsageError(f"{name} is not a {self.type}", expected=self.meaning, got=repr(text)) from None


class Result:
    """The rows of a query, not yet computed."""

    def __init__(self, relation: Relation, clock: _Clock) -> None:
        self._relation = relation
        self._clock = clock
        self.columns: list[str] = list(relation.columns)

    def flat(self) -> Result:
        """Returns the same rows; a value that is no number, text or time, such as a list, is written out as text."""
        columns = []
        for name, kind in zip(self.columns, self._relation.types, strict=True):
            value = ColumnExpression(name)
            columns.append((value if FLAT.fullmatch(str(kind)) else value.cast("VARCHAR")).alias(name))
        return self._changed(lambda: self._relation.select(*columns))

    def as_json(self) -> Result:
        """Returns one column, each row as a JSON object; NaN and infinities stand in it as such."""
        return self._changed(lambda: self._relation.set_alias("__row").select(SQLExpression("to_json(__row)")))

    def count(self) -> int:
        """Computes the number of rows, without the rows."""
        with self._clock.working():
            return int(self._relation.aggregate("count(*)").fetchall()[0][0])

    @contextmanager
    def stream(self, rows: int = BATCH_ROWS) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
        """Yields the schema, and the rows in batches as they are computed."""
        with self._clock.working():
            reader = self._relation.to_arrow_reader(rows)
        with reader:
            yield reader.schema, iter(lambda: self._next(reader), None)

    def _next(self, reader: pa.RecordBatchReader) -> pa.RecordBatch | None:
        with self._clock.working():
            return next(reader, None)

    def _changed(self, change: Callable[[], Relation]) -> Result:
        with self._clock.working():
            return Result(change(), self._clock)


@contextmanager
def run(
    lake: Lake,
    text: str,
    values: Mapping[str, Any] | None = None,
    *,
    job: Job | None = None,
    limits: Limits = DEFAULT,
) -> Iterator[Result]:
    """Yields the result of one SELECT, or of EXPLAIN of one, over the views of `views.py`.

    `values` are bound to its `$parameters`; `unscored` is the input of the job. Raises QueryRefused for what is no such
    query, does not work, or needs more time or memory than the limits, here or when the rows are taken.
    """
    with database.connection(limits.memory_limit, limits.threads) as con:
        lake.storage.attach(con)
        clock = _Clock(con, limits, lake)
        with clock.working():
            check(con, text)
        con.execute("SET parquet_metadata_cache = true")  # a view reads the footers that another has read
        _lock(con, _create_views(con, lake, text, job))
        with clock.working():
            relation = con.sql(text, params=dict(values) if values else None).select(StarExpression())
        yield Result(relation, clock)


def check(con: Connection, text: str) -> None:
    """Raises QueryRefused unless the text is one SELECT, or EXPLAIN of one, that changes nothing and opens no file."""
    text = EXPLAIN.sub("", text, count=1)
    kinds = [statement.type.name for statement in con.extract_statements(text)]
    if kinds == ["MULTI"]:
        raise QueryRefused("PIVOT needs its values here", expected="PIVOT ... ON column IN ('a', 'b') USING ...")
    if kinds != ["SELECT"]:
        raise QueryRefused("a query is one SELECT", expected="SELECT ...", got=", ".join(kinds) or "nothing")
    parsed = con.execute("SELECT json_serialize_sql($text::VARCHAR)", {"text": text}).fetchall()[0][0]
    try:
        tree = json.loads(parsed, object_hook=_checked)
    except RecursionError:
        raise QueryRefused("the query is nested too deeply") from None
    if tree["error"]:
        raise QueryRefused("a query is one SELECT", got=tree["error_message"])


def parameters(query: NamedQuery) -> dict[str, Parameter]:
    """Reads the parameters from a query's header."""
    found = {}
    for line in query.header:
        if match := PARAMETER.fullmatch(line):
            default = re.search(r"\bdefault (\S+)", match["meaning"])
            found[match["name"]] = Parameter(match["type"], match["meaning"], default[1] if default else None)
    return found


def bind(query: NamedQuery, given: Mapping[str, str]) -> dict[str, Any]:
    """Returns the values of a query's parameters, each in its type.

    Raises UsageError for a parameter that the query does not have, that it needs, or that is not of its type.
    """
    known = parameters(query)
    for name in given:
        if name not in known:
            raise UsageError(
                f"{query.name} has no parameter {name!r}{nearest(name, list(known))}",
                expected="; ".join(f"{each} ({known[each].meaning})" for each in known) or "none",
            )
    missing = {name: each for name, each in known.items() if name not in given and each.default is None}
    if missing:
        raise UsageError(
            f"{query.name} needs {', '.join(missing)}",
            expected="; ".join(f"{name}: {each.meaning}" for name, each in missing.items()),
            next_step=f"lakescore query {query.name} " + " ".join(f"--param {name}=..." for name in missing),
        )
    return {name: each.value(name, given.get(name, each.default)) for name, each in known.items()}


def _checked(node: dict[str, Any]) -> dict[str, Any]:
    """Looks at one node of the parsed query. Raises QueryRefused."""
    kind = str(node.get("type"))
    if kind.endswith("_NODE") and kind not in NODES:
        raise QueryRefused("a query may only read", expected="SELECT", got=kind.partition("_")[0])
    if kind == "TABLE_FUNCTION" and (name := node["function"]["function_name"].lower()) not in FUNCTIONS:
        raise QueryRefused(
            f"a query may not call {name}()",
            expected=f"a view ({', '.join(views.NAMES)}, unscored), or {', '.join(sorted(FUNCTIONS))}",
        )
    return node


def _create_views(con: Connection, lake: Lake, text: str, job: Job | None) -> list[str]:
    """Makes the views that the text names, or all if it names none (SHOW TABLES); returns the files that they read."""
    words = set(re.findall(r"\w+", text.lower()))
    sources = set(job.input.patterns) if job else set()
    everything = not words & {*views.NAMES, *sources}
    files = views.create(con, lake, views.NAMES if everything else words.intersection(views.NAMES))
    if job is not None and (everything or words & sources):
        files += views.create_unscored(con, lake, job)
    return files


def _lock(con: Connection, files: list[str]) -> None:
    """From here on the connection opens these files, its own temporary ones, and no others."""
    con.execute("SET TimeZone = 'UTC'")
    con.execute("SET allowed_paths = $files", {"files": files})
    con.execute("SET enable_external_access = false")
    con.execute("SET lock_configuration = true")


class _Clock:
    """Interrupts DuckDB once it has worked for the time allowed, in all; says in our words what it refuses."""

    def __init__(self, con: Connection, limits: Limits, lake: Lake) -> None:
        self._con = con
        self._limits = limits
        self._lake = lake
        self._left_s = limits.timeout_s

    @contextmanager
    def working(self) -> Iterator[None]:
        if self._left_s <= 0:
            raise self._too_long()
        timer = threading.Timer(self._left_s, self._con.interrupt)
        started = time.monotonic()
        timer.start()
        try:
            yield
        except (duckdb.Error, OSError) as error:
            raise self._explained(error) from error
        finally:
            timer.cancel()
            timer.join()  # else it might interrupt a connection that is closed by then
            self._left_s -= time.monotonic() - started

    def _explained(self, error: duckdb.Error | OSError) -> LakescoreError:
        text = str(error)
        if isinstance(error, duckdb.InterruptException) or "INTERRUPT" in text:
            return self._too_long()
        if isinstance(error, duckdb.OutOfMemoryException) or "Out of Memory" in text:
            return QueryRefused(
                f"the query needs more memory than {self._limits.memory_limit}",
                got=text.splitlines()[0],
                next_step="narrow it, such as WHERE ds = '...', or raise LAKESCORE_MEMORY_LIMIT",
            )
        if (translated := translate(error, self._lake.storage)) is not None:
            return translated
        if isinstance(error, duckdb.IOException) or "IO Error: " in text:  # in mid-stream all errors are OSErrors
            return database.unreadable(error, self._lake.storage)
        if isinstance(error, duckdb.PermissionException):
            return QueryRefused("a query opens no files but those of its views", got=text.splitlines()[0])
        return QueryRefused("DuckDB cannot run this query", got=text, next_step="lakescore query --list")

    def _too_long(self) -> QueryRefused:
        return QueryRefused(
            f"the query took longer than {self._limits.timeout_s:g} s",
            next_step="narrow it, such as WHERE ds = '...', or raise --timeout",
        )
