"""Runs SQL that a person wrote: one SELECT over the views, which cannot write, and cannot read any other file.

`database/gate.py` examines the query; then the connection is locked to the files of the views.
"""

from __future__ import annotations

import re
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
from duckdb import ColumnExpression, SQLExpression, StarExpression

from pipeline.database.connection import connect, translated_errors, unreadable_file
from pipeline.database.gate import check_query
from pipeline.database.sql_files import NamedQuery
from pipeline.errors import LakescoreError, QueryRefused, UsageError, nearest
from pipeline.job.config import Job
from pipeline.lake.layout import Lake
from pipeline.periods import check_ds
from pipeline.query import spreadsheet, unscored, views
from pipeline.storage import translate_error

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation

BATCH_ROWS = 10_000
PARAMETER = re.compile(r"\$(?P<name>\w+) (?P<type>[A-Z]+): (?P<meaning>.+)")
PARAMETER_TYPES: dict[str, Callable[[str], Any]] = {"VARCHAR": str, "BIGINT": int, "DOUBLE": float}
"""Parsers of parameter values by SQL type; DATE is the text of a period, see `periods.py`."""


@dataclass(frozen=True)
class Limits:
    timeout_s: float = 60.0
    """Time for DuckDB's own work; the time that the reader of the rows takes does not count."""
    memory_limit: str = "400MB"
    threads: int | None = None
    """Number of threads; None for all cores."""


DEFAULT_LIMITS = Limits()
GRACE_S = 2.0
"""Seconds that DuckDB has to stop after it was interrupted."""
Stuck = Callable[[LakescoreError], object]


@dataclass(frozen=True)
class Parameter:
    """A line `-- $name TYPE: meaning, default VALUE` of a query's header."""

    type: str
    meaning: str
    default: str | None

    def value(self, name: str, text: str | None) -> Any:
        """Returns the text as a Python value of the parameter's type. Raises UsageError if it is not of that type."""
        if text is None or text == self.default == "NULL":
            return None
        if self.type == "DATE":
            return check_ds(text)
        try:
            return PARAMETER_TYPES[self.type](text)
        except ValueError:
            raise UsageError(f"{name} is not a {self.type}", expected=self.meaning, got=repr(text)) from None


class Result:
    """The rows of a query, not yet computed."""

    def __init__(self, relation: Relation, clock: _Clock) -> None:
        self._relation = relation
        self._clock = clock
        self.columns: list[str] = list(relation.columns)

    def flat(self) -> Result:
        """Returns the same rows, with values other than numbers, text and times (such as lists) written as text."""
        return self._changed(lambda: spreadsheet.flat(self._relation))

    def spreadsheet_safe(self, keys: Collection[str]) -> Result:
        """Returns the same rows with an apostrophe before each text that a spreadsheet would take for a formula.

        The columns `keys` stay as they are. Raises QueryRefused, here or while the rows are read, if a text in one of
        them looks like a formula: changed, it would no longer be that row's key.
        """
        return self._changed(lambda: spreadsheet.spreadsheet_safe(self._relation, keys))

    def as_json(self) -> Result:
        """Returns one column with each row as a JSON object, in which NaN and infinities stay as they are."""
        return self._changed(lambda: self._relation.set_alias("__row").select(SQLExpression("to_json(__row)")))

    def selected(self, columns: Sequence[str]) -> Result:
        """Returns some columns of the same rows."""
        return self._changed(lambda: self._relation.select(*map(ColumnExpression, columns)))

    def count(self) -> int:
        """Returns the number of rows, without fetching them."""
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
def run_query(
    lake: Lake,
    text: str,
    values: Mapping[str, Any] | None = None,
    *,
    job: Job | None = None,
    limits: Limits = DEFAULT_LIMITS,
    stuck: Stuck | None = None,
) -> Iterator[Result]:
    """Yields the result of one SELECT, or of EXPLAIN of one, over the views of `views.py`.

    `values` are bound to its `$parameters`; `unscored` is the input of `job`. Raises QueryRefused for any other text, a
    query that fails, or one that exceeds the time or memory limit, either here or while the rows are read.

    DuckDB looks at both limits between its steps, and one huge expression is a single step. `stuck` is called in
    another thread if it has not stopped `GRACE_S` after its time was over: a function that ends the process. For
    memory there is `machine.bounded_memory`.
    """
    with (
        tempfile.TemporaryDirectory(prefix="lakescore-text-") as folder,
        connect(limits.memory_limit, limits.threads) as con,
    ):
        lake.storage.attach(con)
        clock = _Clock(con, limits, lake, stuck)
        with clock.working():
            check_query(con, text, (*views.NAMES, "unscored"))
        con.execute("SET parquet_metadata_cache = true")  # views share the footers that one of them has read
        with translated_errors(lake.storage):
            files = _create_views(con, lake, text, job, Path(folder))
        _lock(con, files)
        with clock.working():
            relation = con.sql(text, params=dict(values) if values else None).select(StarExpression())
        yield Result(relation, clock)


def parameters_of(query: NamedQuery) -> dict[str, Parameter]:
    """Reads the parameters from a query's header."""
    found = {}
    for line in query.header:
        if match := PARAMETER.fullmatch(line):
            default = re.search(r"\bdefault (\S+)", match["meaning"])
            found[match["name"]] = Parameter(match["type"], match["meaning"], default[1] if default else None)
    return found


def bind_parameters(query: NamedQuery, given: Mapping[str, str]) -> dict[str, Any]:
    """Returns the values of a query's parameters, each in its type.

    Raises UsageError for an unknown parameter, a missing one, or a value of the wrong type.
    """
    known = parameters_of(query)
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


def _create_views(con: Connection, lake: Lake, text: str, job: Job | None, folder: Path) -> list[str]:
    """Creates the views that the text names, or all if it names none (SHOW TABLES); returns the files they read."""
    words = set(re.findall(r"\w+", text.lower()))
    sources = set(job.patterns) if job else set()
    everything = not words & {*views.NAMES, *sources}
    files = views.create(con, lake, views.NAMES if everything else words.intersection(views.NAMES))
    if job is not None and (everything or words & sources):
        files += unscored.create(con, lake, job, folder=folder)
    return files


def _lock(con: Connection, files: list[str]) -> None:
    """Locks the connection, so that it can open only these files and its own temporary ones."""
    con.execute("SET allowed_paths = $files", {"files": files})
    con.execute("SET enable_external_access = false")
    con.execute("SET lock_configuration = true")


class _Clock:
    """Interrupts DuckDB when its total working time exceeds the limit, and translates its errors."""

    def __init__(self, con: Connection, limits: Limits, lake: Lake, stuck: Stuck | None) -> None:
        self._con = con
        self._stuck = stuck
        self._limits = limits
        self._lake = lake
        self._left_s = limits.timeout_s

    @contextmanager
    def working(self) -> Iterator[None]:
        if self._left_s <= 0:
            raise self._too_long()
        timers = [threading.Timer(self._left_s, self._con.interrupt)]
        if self._stuck is not None:
            timers.append(threading.Timer(self._left_s + GRACE_S, self._stuck, [self._too_long()]))
        started = time.monotonic()
        for timer in timers:
            timer.start()
        try:
            yield
        except (duckdb.Error, OSError, MemoryError) as error:
            raise self._translated(error) from error
        finally:
            for timer in timers:
                timer.cancel()
                timer.join()  # otherwise it might interrupt a connection that has since been closed
            self._left_s -= time.monotonic() - started

    def _translated(self, error: duckdb.Error | OSError | MemoryError) -> LakescoreError:
        text = str(error)
        if isinstance(error, duckdb.InterruptException) or "INTERRUPT" in text:
            return self._too_long()
        if isinstance(error, duckdb.OutOfMemoryException | MemoryError) or "Out of Memory" in text:
            return QueryRefused(
                f"the query needs more memory than {self._limits.memory_limit}",
                got=text.partition("\n")[0] or None,
                next_step="narrow the query, for example with WHERE ds = '...', or raise LAKESCORE_MEMORY_LIMIT",
            )
        if (translated := translate_error(error, self._lake.storage)) is not None:
            return translated
        if isinstance(error, duckdb.IOException) or "IO Error: " in text:  # while streaming, all errors are OSErrors
            return unreadable_file(error, self._lake.storage)
        if isinstance(error, duckdb.PermissionException):
            return QueryRefused("a query can open only the files of its views", got=text.splitlines()[0])
        return spreadsheet.formula_in_key(text) or QueryRefused(
            "DuckDB cannot run this query", got=text, next_step="lakescore query --list"
        )

    def _too_long(self) -> QueryRefused:
        return QueryRefused(
            f"the query took longer than {self._limits.timeout_s:g} s",
            next_step="narrow the query, for example with WHERE ds = '...', or raise --timeout",
        )
