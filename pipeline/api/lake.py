"""What a lake holds, for Python: predictions, runs, queries and explanations as Arrow tables."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from pipeline.context import Context
from pipeline.database import sql_files
from pipeline.errors import QueryRefused, UsageError, nearest
from pipeline.explain.explaining import Answer
from pipeline.explain.explaining import explain as explain_key
from pipeline.job.config import Job
from pipeline.job.loading import find_job
from pipeline.lake import layout
from pipeline.periods import check_ds
from pipeline.query.running import DEFAULT_LIMITS, Limits, Result, bind_parameters, parameters_of, run_query
from pipeline.settings import Settings

if TYPE_CHECKING:
    from pipeline.storage import Storage

Period = str | date
"""A period as in the column `ds`: a day, the first day of a week or month, or an hour such as `2026-01-31T05Z`."""
VIEWS = ("predictions", "predictions_by_version", "predictions_history")


class Lake(layout.Lake):
    """A lake, opened to be read.

    lake = Lake.open("lake", job="churn")
    lake.predictions("2026-01-31").to_pandas()

    All answers are `pyarrow.Table`: `.to_pandas()` and `polars.from_arrow(table)` convert them. The methods do what the
    commands of the same names do, by the same code, and raise the same errors, which are all `LakescoreError`.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        job: str | None = None,
        settings: Settings | None = None,
        timeout_s: float = DEFAULT_LIMITS.timeout_s,
    ) -> None:
        """See `open`."""
        super().__init__(storage)
        self.job = job
        """Name of the job that the methods are about if they are not told another; None: all jobs."""
        self.settings = settings or Settings.from_environment()
        memory = self.settings.memory_limit or DEFAULT_LIMITS.memory_limit
        self.limits = Limits(timeout_s, memory, self.settings.threads)

    @classmethod
    def open(
        cls,
        root: str | os.PathLike[str] | None = None,
        *,
        job: str | None = None,
        settings: Settings | None = None,
        timeout_s: float = DEFAULT_LIMITS.timeout_s,
    ) -> Lake:
        """Opens a lake by the path of its folder or the URL of its bucket; by default the one of the settings.

        `settings` (by default those of the environment) say where jobs and models are, and the memory and threads of a
        query; `timeout_s` is the number of seconds that DuckDB may work on one. Raises LakeDamaged if a later version
        of Lakescore wrote it. That there is no lake is an error only once it is read.
        """
        machine = settings or Settings.from_environment()
        machine = machine if root is None else replace(machine, lake=os.fspath(root))
        storage = layout.Lake.open(machine.lake).storage
        return cls(storage, job=job, settings=machine, timeout_s=timeout_s)

    def jobs(self) -> list[str]:
        """Returns the names of the jobs that have runs in the lake."""
        self._check_there()
        return sorted(self.records.jobs())

    def queries(self) -> dict[str, str]:
        """Returns the named queries, and what each returns."""
        return {name: query.title for name, query in sql_files.named().items()}

    def predictions(
        self,
        period: Period | None = None,
        *,
        first: Period | None = None,
        last: Period | None = None,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        job: str | None = None,
        view: str = "predictions",
    ) -> pa.Table:
        """Returns the current predictions of a period, or of a range (both ends inclusive), in no particular order.

        `columns` are some of those of docs/queries.md, by default all; `where` is a condition in SQL over them. `view`
        may be `predictions_by_version` or `predictions_history`. A period that has no predictions has no rows. Raises
        UsageError for an unknown job, column, view or period, QueryRefused for a condition that cannot be computed.
        """
        if view not in VIEWS:
            raise UsageError(f"no view of predictions is called {view!r}", expected=", ".join(VIEWS))
        with self._of_periods(view, where, self._values(period, first, last, job)) as result:
            return _table(result if columns is None else result.selected(_known(columns, result.columns)))

    def runs(
        self,
        period: Period | None = None,
        *,
        first: Period | None = None,
        last: Period | None = None,
        columns: Sequence[str] | None = None,
        where: str | None = None,
        job: str | None = None,
    ) -> pa.Table:
        """Returns the runs, newest first; arguments and errors are those of `predictions`."""
        with self._of_periods("runs", where, self._values(period, first, last, job)) as result:
            found = _table(result).sort_by([("run_id", "descending")])
        return found if columns is None else found.select(_known(columns, found.column_names))

    def query(self, text: str, parameters: Mapping[str, Any] | None = None, *, job: str | None = None) -> pa.Table:
        """Returns the rows of a named query, or of one SELECT over the views of docs/queries.md.

        `parameters` are those of the named query, or values of `$name` in the SELECT. The job is `$job` of a named
        query, and its input is the view `unscored`. Raises UsageError for an unknown query or parameter, QueryRefused
        for SQL that cannot be run, or not within the limits.
        """
        with self._run(text, parameters or {}, job) as result:
            return _table(result)

    @contextmanager
    def stream(
        self, text: str, parameters: Mapping[str, Any] | None = None, *, job: str | None = None
    ) -> Iterator[pa.RecordBatchReader]:
        """Yields the rows of `query` in batches, as they are computed: they need not fit into the memory."""
        with self._run(text, parameters or {}, job) as result, result.stream() as (schema, batches):
            yield pa.RecordBatchReader.from_batches(schema, batches)

    def explain(
        self, key: str, period: Period | None = None, *, replay: bool = False, job: str | None = None
    ) -> Answer:
        """Returns every prediction that a key ever had, and its origin; `to_arrow()` makes a table of it.

        `key` is written as in `key_text`. `replay` loads the models, scores the input again and attributes one score.
        Raises UsageError if nothing is stored for the key, JobError for an unknown job, ModelError.
        """
        self._check_there()
        ctx = Context.open(self._job(job), self.settings)
        return explain_key(ctx, key, None if period is None else ctx.job.period(_written(period)).ds, replay=replay)

    # How it is asked

    def _of_periods(self, view: str, where: str | None, values: Mapping[str, Any]) -> AbstractContextManager[Result]:
        """Yields the rows of a view for the values of `_values` for which the condition is true."""
        rows = f"WITH shown AS NOT MATERIALIZED (FROM {view})\n{sql_files.load('api/of_periods')}"
        return self._run(f"FROM (\n{rows}) WHERE (\n{_condition(where)}\n)", values, None)

    def _values(
        self, period: Period | None, first: Period | None, last: Period | None, job: str | None
    ) -> dict[str, str | None]:
        """Returns the parameters of `sql/api/of_periods.sql`."""
        if period is not None and (first is not None or last is not None):
            raise UsageError("a period cannot be combined with a range", expected="period, or first and last")
        name = job or self.job
        if name is not None and name not in (known := self.jobs()):
            raise UsageError(
                f"the lake has no runs of a job {name!r}{nearest(name, known)}",
                where=self.storage.where("runs"),
                expected=", ".join(known) or None,
            )
        limits = {"ds": period, "first": first, "last": last}
        return {"job": name} | {
            each: None if value is None else check_ds(_written(value)) for each, value in limits.items()
        }

    @contextmanager
    def _run(self, text: str, values: Mapping[str, Any], job: str | None) -> Iterator[Result]:
        self._check_there()
        named = sql_files.find(text) if re.fullmatch(r"[\w-]+", text) else None
        found = None
        if named is not None:
            meant = job or self.job
            known = {"job": meant} if meant is not None and "job" in parameters_of(named) else {}
            given = {name: _written(value) for name, value in (known | dict(values)).items() if value is not None}
            values = bind_parameters(named, given)
        elif job is not None or re.search(r"\bunscored\b", text, re.IGNORECASE):
            found = self._job(job)
        with run_query(self, named.text if named else text, values, job=found, limits=self.limits) as result:
            yield result

    def _job(self, job: str | None) -> Job:
        return find_job(job or self.job, self.settings)

    def _check_there(self) -> None:
        if not self.exists():
            raise UsageError(
                "there is no lake here",
                where=self.storage.where("").rstrip("/"),
                next_step="correct the path, or make one: lakescore import FILES --date YYYY-MM-DD",
            )


def _table(result: Result) -> pa.Table:
    with result.stream() as (schema, batches):
        return pa.Table.from_batches(batches, schema)


def _written(value: Any) -> str:
    """Returns a value as it is written on the command line. Raises UsageError for a time, whose grain is unknown."""
    if isinstance(value, datetime):
        raise UsageError("a time is no period", expected="a date, or an hour as text: 2026-01-31T05Z", got=str(value))
    return value.isoformat() if isinstance(value, date) else str(value)


def _condition(where: str | None) -> str:
    """Returns a condition as a part of a SELECT. Raises QueryRefused if it is not one expression."""
    if where is None:
        return "true"
    try:
        duckdb.SQLExpression(where)
    except duckdb.Error as error:
        raise QueryRefused(
            "`where` is not one condition", expected="such as prob_class_1 > 0.8", got=str(error)
        ) from None
    return where


def _known(columns: Sequence[str], there: Sequence[str]) -> list[str]:
    """Returns the columns. Raises UsageError for one that is not there."""
    if isinstance(columns, str):
        raise UsageError("`columns` is a list of names", expected=f"[{columns!r}]", got=repr(columns))
    if unknown := [name for name in columns if name not in there]:
        raise UsageError(
            f"there is no column {unknown[0]!r}{nearest(unknown[0], list(there))}", expected=", ".join(there)
        )
    return list(columns)
