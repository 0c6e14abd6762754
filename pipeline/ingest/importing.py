"""Brings CSV, JSON lines and Parquet files into the lake, as one day or as many, in bounded memory.

Rows are written in one pass; text is read before that for its types. With `partition_by` DuckDB sorts the rows by day
(and spills to disk what does not fit), so that one file is open at a time, however many days there are. Rows keep no
order within a day. The column stays in the files, unless its name is that of the folder, `ds=...`: then readers take it
from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from itertools import groupby, pairwise
from operator import itemgetter
from pathlib import PurePath, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from duckdb import CaseExpression as Case
from duckdb import ColumnExpression as Column
from duckdb import ConstantExpression as Constant
from duckdb import FunctionExpression as Function
from duckdb import StarExpression as Star

from pipeline import database
from pipeline.context import Progress, silent
from pipeline.errors import InputError, SchemaMismatch, UsageError, nearest
from pipeline.ingest import sources
from pipeline.ingest.publishing import Existing, PublishedDay, Staging, Target, staging
from pipeline.ingest.sources import Files
from pipeline.ingest.writing import ROW_GROUP
from pipeline.job import Job
from pipeline.lake import Lake
from pipeline.machine import usable_cores
from pipeline.records import DAY, check_day

if TYPE_CHECKING:
    from duckdb import DuckDBPyRelation as Relation
    from duckdb import Expression

MAX_THREADS = 8
"""Each holds buffers of 16 MB while it reads text; they must fit into the memory limit."""
DAY_COLUMN = "__lakescore_day"
EPOCH = date(1970, 1, 1).toordinal()
WITHOUT_ZONE = {"DATE", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"}
DAYS = "DATE, TIMESTAMP or text YYYY-MM-DD"


@dataclass(frozen=True)
class Into:
    """Where rows go that are no input of a job, and what is done to them before."""

    target: Target
    change: Callable[[Relation], Relation]


def import_files(
    lake: Lake,
    job: Job,
    files: Files,
    *,
    ds: str | None = None,
    partition_by: str | None = None,
    source: str | Into | None = None,
    existing: Existing = Existing.refuse,
    progress: Progress = silent,
) -> tuple[PublishedDay, ...]:
    """Imports files to where the job reads its input (or its `source`), or elsewhere; returns the days in order.

    Give either `ds`, or `partition_by`: the column with the day of each row, as DATE, as TIMESTAMP (one with a time
    zone counts in the job's) or as text `YYYY-MM-DD`. The total that `progress` is told is 0: it is not known.

    Raises UsageError if a day has files and `existing` says to refuse, InputError for rows without a day or no rows
    at all, SchemaMismatch and UnreadableFile for files that cannot be imported. Nothing is visible then.
    """
    if (ds is None) == (partition_by is None):
        raise UsageError("an import needs to know the day", expected="either a day, or the column that holds it")
    into = source if isinstance(source, Into) else Into(target_of(job, lake, source), lambda rows: rows)
    with staging(lake, into.target, existing) as work:
        if ds is not None:
            work.check([check_day(ds)])
        threads = min(job.engine.threads or usable_cores(), MAX_THREADS)
        with database.connection(job.engine.memory_limit, threads) as con, sources.explained(files):
            con.execute("SET TimeZone = 'UTC'")  # a time without a zone must not depend on the machine's
            con.execute("SET enable_progress_bar = false")  # DuckDB's goes to stdout, where --json goes
            rows = into.change(sources.read(con, files))
            stored = _stored_columns(rows, work.target, partition_by)
            if ds is not None:
                _write_day(work, rows, ds, progress)
            elif partition_by is not None:
                con.execute("SET threads = 1")  # with two, DuckDB's sort runs out of memory where it could spill
                by_day = _sorted_by_day(rows, partition_by, job.schedule.timezone)
                _write_days(work, by_day, partition_by, stored, progress)
        return work.publish()


def target_of(job: Job, lake: Lake, source: str | None = None) -> Target:
    """Returns where the job reads its input. Raises UsageError if that is no place where files can be put."""
    patterns = job.input.patterns
    name = source or (next(iter(patterns)) if len(patterns) == 1 else "")
    if name not in patterns:
        what = f"job {job.name!r} has no source {source!r}" if source else f"job {job.name!r} reads several sources"
        raise UsageError(what, expected=", ".join(patterns), next_step="--source NAME")
    pattern, root = PurePath(patterns[name]), PurePath(lake.storage.where("")) if lake.is_local else None
    if root is not None and pattern.is_absolute() and pattern.is_relative_to(root):
        pattern = pattern.relative_to(root)
    *folders, file = (part for part in pattern.parts if part != "**")
    folder = PurePosixPath(*folders).as_posix()
    fixed = "{ds}" in folder and not set("*?[") & set(folder) and not set("?[") & set(file) and file.count("*") == 1
    if pattern.is_absolute() or not fixed:
        raise UsageError(
            f"files cannot be imported to where job {job.name!r} reads",
            where=patterns[name],
            expected="a pattern like unscored/ds={ds}/*.parquet: in the lake, a folder for a day, one '*' for the file",
            next_step="put the files there yourself",
        )
    return Target(folder, file + ".parquet" if file.endswith("*") else file, job.input.key)


def _stored_columns(rows: Relation, target: Target, partition_by: str | None) -> list[str]:
    """Returns the columns that go into the files. Raises UsageError if the one to partition by is not there."""
    if partition_by is not None and partition_by not in rows.columns:
        what = f"no column is called {partition_by!r}{nearest(partition_by, rows.columns)}"
        raise UsageError(what, expected=", ".join(rows.columns))
    stored = [name for name in rows.columns if name != partition_by or name.lower() not in target.keys]
    if hidden := [name for name in stored if name.lower() in target.keys]:
        raise SchemaMismatch(
            f"column {hidden[0]!r} has the name of a folder, from which readers take it",
            where=f"{target.folder}/",
            next_step=f"--partition-by {hidden[0]}, if it holds the day; or rename the column",
        )
    return stored


def _write_day(work: Staging, rows: Relation, ds: str, progress: Progress) -> None:
    with rows.to_arrow_reader(ROW_GROUP) as reader, work.writer(ds, reader.schema) as writer:
        for batch in reader:
            writer.write(batch)
            progress("import", writer.rows, 0)
    if writer.rows == 0:
        raise _no_rows()


def _write_days(work: Staging, rows: Relation, column: str, stored: list[str], progress: Progress) -> None:
    done = 0
    with rows.to_arrow_reader(ROW_GROUP) as reader:
        schema = pa.schema([reader.schema.field(name) for name in stored])
        for day, slices in groupby(_cut(reader, column), key=itemgetter(0)):
            with work.writer(date.fromordinal(EPOCH + day).isoformat(), schema) as writer:
                for _, batch in slices:
                    writer.write(batch.select(stored))
                    progress("import", done + writer.rows, 0)
            done += writer.rows
    if done == 0:
        raise _no_rows()


def _cut(reader: pa.RecordBatchReader, column: str) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Cuts batches sorted by day where the day changes; yields the days since 1970 and the rows.

    Raises InputError, with the number of rows, if there are any without a day: they come first.
    """
    without = empty = 0
    for batch in reader:
        days = batch.column(DAY_COLUMN)
        without += days.null_count
        empty += batch.column(column).slice(0, days.null_count).null_count
        if without and days.null_count < batch.num_rows:
            break
        if not without:
            numbers = days.cast(pa.int32()).to_numpy()
            cuts = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), batch.num_rows]
            for start, stop in pairwise(cuts):
                yield int(numbers[start]), batch.slice(start, stop - start)
    if without:
        raise InputError(
            f"{without:,} rows have no day in column {column!r}",
            expected=f"{DAYS} in each row",
            got=f"{empty:,} times NULL, {without - empty:,} times something that is no day",
            next_step=f"mend or leave out these rows; for times written as text: --types {column}=TIMESTAMP",
        )


def _sorted_by_day(rows: Relation, column: str, zone: str) -> Relation:
    """Returns the rows by day, and first those without one, whose day is NULL."""
    day = _day(column, database.schema(rows)[column], zone)
    sensible = (day >= Constant(date.min)) & (day <= Constant(date.max))
    with_day = rows.select(Star(), Case(sensible, day).alias(DAY_COLUMN))
    return with_day.sort(Column(DAY_COLUMN).asc().nulls_first())


def _day(name: str, kind: str, zone: str) -> Expression:
    column = Column(name)
    if kind == "VARCHAR":
        looks_right = Function("regexp_full_match", column, Constant(DAY.pattern))
        return Case(looks_right, Function("try", column.cast("DATE")))
    if kind == "TIMESTAMP WITH TIME ZONE":
        column = Function("timezone", Constant(zone), column)
    elif kind not in WITHOUT_ZONE:
        raise SchemaMismatch(f"column {name!r} does not hold days", expected=DAYS, got=kind)
    return column.cast("DATE")


def _no_rows() -> InputError:
    return InputError("there are no rows in the files", next_step="a day without rows needs no import")
