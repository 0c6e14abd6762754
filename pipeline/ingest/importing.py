"""Imports CSV, JSON lines and Parquet files into the lake, as one period or many, in bounded memory.

Rows are written in one pass; text files are read once more before that, to infer types. With `partition_by`, DuckDB
sorts the rows by period (spilling to disk), so that only one file is open at a time, however many periods there are.
The order of rows within a period is not kept. The `partition_by` column stays in the files, unless it has the name of
the folder (`ds=...`): readers then take it from the path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
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

from pipeline.context import Progress, silent
from pipeline.database.aligning import INSTANTS, WITHOUT_ZONE
from pipeline.database.connection import column_types, connect, fit
from pipeline.database.resources import batch_rows, resources
from pipeline.errors import InputError, SchemaMismatch, UsageError, counted, nearest
from pipeline.ingest.contract import Contract
from pipeline.ingest.publishing import Existing, PublishedDay, Staging, Target, staging
from pipeline.job.config import Job
from pipeline.lake.layout import Lake
from pipeline.periods import DAY, Grain, Period
from pipeline.tabular import sources
from pipeline.tabular.sources import Files

if TYPE_CHECKING:
    from duckdb import DuckDBPyRelation as Relation
    from duckdb import Expression

MAX_THREADS = 8
"""Each thread holds 16 MB of buffers while it reads text, and all of them must fit into the memory limit."""
PERIOD_COLUMN = "__lakescore_period"
"""The days since 1970 at which a day, week or month begins; of hours, the hours since then."""
EPOCH = date(1970, 1, 1)
DAYS = "DATE, TIMESTAMP or text YYYY-MM-DD"
HOURS = "TIMESTAMP WITH TIME ZONE, or in a job with timezone = 'UTC' also TIMESTAMP"


@dataclass(frozen=True)
class Into:
    """A destination, and what is done with the rows before they are written."""

    target: Target
    change: Callable[[Relation], Relation]
    read: Mapping[str, list[str]] | None = None
    """Columns whose types are decided, as arguments of `sources.read`; by default the job's key."""


def checked(lake: Lake, job: Job, source: str | None, files: Files, contract: Contract) -> Into:
    """Returns the input of a job as a destination that takes only files that fulfil a contract."""
    target = target_of(job, lake, source)

    def check(rows: Relation) -> Relation:
        contract.check(column_types(rows), files, target.keys)
        return rows

    return Into(target, check, contract.read)


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
    """Imports files to where the job reads its input, and returns the published days in order.

    `source` is one of the job's sources, or an `Into` for another destination. Give either `ds`, or `partition_by`:
    the column with the date or time of each row, as DATE, TIMESTAMP (with a time zone: converted to the job's zone) or
    text `YYYY-MM-DD`; hours need a time whose zone is known. `progress` gets a total of 0, because the number of rows
    is not known in advance.

    Raises UsageError if a day already has files and `existing` is `refuse`, InputError for rows without a day or for
    no rows at all, SchemaMismatch and UnreadableFile for files that cannot be imported. In these cases nothing becomes
    visible.
    """
    if (ds is None) == (partition_by is None):
        raise UsageError("an import needs to know the day", expected="either a day, or the column that holds it")
    into = source if isinstance(source, Into) else Into(target_of(job, lake, source), lambda rows: rows)
    with staging(lake, into.target, existing) as work:
        if ds is not None:
            ds = job.period(ds).ds
            work.check([ds])
        found = resources(job.engine)
        with connect(found.memory_limit, min(found.threads, MAX_THREADS)) as con, sources.translated_read_errors(files):
            rows = into.change(sources.read(con, files, **(into.read or {"key": list(job.input.key)})))
            found = resources(job.engine, len(rows.columns))
            fit(con, replace(found, threads=min(found.threads, MAX_THREADS)))
            stored = _stored_columns(rows, work.target, partition_by)
            types = {name: kind for name, kind in column_types(rows).items() if name in stored}
            if ds is not None:
                _write_day(work, rows, ds, progress)
            elif partition_by is not None:
                con.execute("SET threads = 1")  # with two, DuckDB's sort runs out of memory instead of spilling
                ordered = _sorted(rows, partition_by, job)
                _write_periods(work, ordered, partition_by, stored, job, progress)
        return tuple(replace(day, types=types) for day in work.publish())


def target_of(job: Job, lake: Lake, source: str | None = None) -> Target:
    """Returns where the job reads its input. Raises UsageError if files cannot be imported there."""
    patterns = job.input.patterns
    name = source or (next(iter(patterns)) if len(patterns) == 1 else "")
    if name not in patterns:
        what = f"job {job.name!r} has no source {source!r}" if source else f"job {job.name!r} reads several sources"
        raise UsageError(what, expected=", ".join(patterns), next_step="--source NAME")
    if name in job.input.text:
        raise UsageError(
            f"job {job.name!r} reads text itself: each run imports the files of its {job.grain}",
            where=patterns[name],
            next_step=f"write the files there; lakescore run --job {job.name} imports them",
        )
    pattern, root = PurePath(patterns[name]), PurePath(lake.storage.where("")) if lake.is_local else None
    if root is not None and pattern.is_absolute() and pattern.is_relative_to(root):
        pattern = pattern.relative_to(root)
    *folders, file = (part for part in pattern.parts if part != "**")
    folder = PurePosixPath(*folders).as_posix()
    fixed = (
        "{ds}" in folder
        and "{" not in folder.replace("{ds}", "")
        and not set("*?[") & set(folder)
        and not set("?[") & set(file)
        and file.count("*") == 1
    )
    if pattern.is_absolute() or not fixed:
        raise UsageError(
            f"files cannot be imported to the path that job {job.name!r} reads",
            where=patterns[name],
            expected="a pattern like unscored/ds={ds}/*.parquet: in the lake, one folder per day, one '*' in the file",
            next_step="copy the files there yourself",
        )
    return Target(folder, file + ".parquet" if file.endswith("*") else file, job.input.key)


def _stored_columns(rows: Relation, target: Target, partition_by: str | None) -> list[str]:
    """Returns the columns to write. Raises UsageError if the `partition_by` column does not exist."""
    if partition_by is not None and partition_by not in rows.columns:
        what = f"no column is called {partition_by!r}{nearest(partition_by, rows.columns)}"
        raise UsageError(what, expected=", ".join(rows.columns))
    stored = [name for name in rows.columns if name != partition_by or name.lower() not in target.keys]
    if hidden := [name for name in stored if name.lower() in target.keys]:
        raise SchemaMismatch(
            f"column {hidden[0]!r} would be hidden: readers take its value from the folder name",
            where=f"{target.folder}/",
            next_step=f"pass --partition-by {hidden[0]} if it holds the day, or rename the column",
        )
    return stored


def _write_day(work: Staging, rows: Relation, ds: str, progress: Progress) -> None:
    with rows.to_arrow_reader(batch_rows(len(rows.columns))) as reader, work.writer(ds, reader.schema) as writer:
        for batch in reader:
            writer.write(batch)
            progress("import", writer.rows, 0)
    if writer.rows == 0:
        raise _no_rows()


def _write_periods(work: Staging, rows: Relation, column: str, stored: list[str], job: Job, progress: Progress) -> None:
    done = 0
    with rows.to_arrow_reader(batch_rows(len(rows.columns))) as reader:
        schema = pa.schema([reader.schema.field(name) for name in stored])
        for number, slices in groupby(_cut(reader, column, job.grain), key=itemgetter(0)):
            with work.writer(_ds(number, job.grain), schema) as writer:
                for _, batch in slices:
                    writer.write(batch.select(stored))
                    progress("import", done + writer.rows, 0)
            done += writer.rows
    if done == 0:
        raise _no_rows()


def _ds(number: int, grain: Grain) -> str:
    """Returns the stored text of a value of PERIOD_COLUMN."""
    if grain is Grain.hour:
        return Period.at(grain, datetime(1970, 1, 1, tzinfo=UTC) + timedelta(hours=number), "UTC").ds
    return (EPOCH + timedelta(days=number)).isoformat()


def _cut(reader: pa.RecordBatchReader, column: str, grain: Grain) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Splits batches that are sorted by period where it changes; yields the value of PERIOD_COLUMN, and the rows.

    Raises InputError, with the number of rows, if there are rows without a period; these are sorted first.
    """
    without = empty = 0
    for batch in reader:
        days = batch.column(PERIOD_COLUMN)
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
            f"{counted(without, 'row', ('has', 'have'))} no {grain} in column {column!r}",
            expected=f"{HOURS if grain is Grain.hour else DAYS} in each row",
            got=f"{empty:,} NULL, {without - empty:,} not valid as a {'time' if grain is Grain.hour else 'day'}",
            next_step=f"correct or remove these rows; for times written as text: --types {column}=TIMESTAMP",
        )


def _sorted(rows: Relation, column: str, job: Job) -> Relation:
    """Returns the rows sorted by period; rows without one come first, as NULL."""
    kind, zone = column_types(rows)[column], job.schedule.timezone
    if job.grain is Grain.hour:
        hour = _hour(column, kind, zone)
        day, number = (
            hour.cast("DATE"),
            Function("date_diff", Constant("hour"), Constant(EPOCH).cast("TIMESTAMP"), hour),
        )
    else:
        day = _day(column, kind, zone)
        number = Function("date_trunc", Constant(str(job.grain)), day).cast("DATE") - Constant(EPOCH)
    sensible = (day >= Constant(date.min)) & (day <= Constant(date.max))
    with_period = rows.select(Star(), Case(sensible, number.cast("INTEGER")).alias(PERIOD_COLUMN))
    return with_period.sort(Column(PERIOD_COLUMN).asc().nulls_first())


def _hour(name: str, kind: str, zone: str) -> Expression:
    """Returns the time in UTC, without a zone. Raises SchemaMismatch if the column does not tell it."""
    if kind in INSTANTS:
        return Function("timezone", Constant("UTC"), Column(name))
    if kind in WITHOUT_ZONE and kind != "DATE" and zone == "UTC":
        return Column(name).cast("TIMESTAMP")
    raise SchemaMismatch(f"column {name!r} does not tell the hour of a row", expected=HOURS, got=kind)


def _day(name: str, kind: str, zone: str) -> Expression:
    column = Column(name)
    if kind == "VARCHAR":
        looks_right = Function("regexp_full_match", column, Constant(DAY.pattern))
        return Case(looks_right, Function("try", column.cast("DATE")))
    if kind in INSTANTS:
        column = Function("timezone", Constant(zone), column)
    elif kind not in WITHOUT_ZONE:
        raise SchemaMismatch(f"column {name!r} does not hold days", expected=DAYS, got=kind)
    return column.cast("DATE")


def _no_rows() -> InputError:
    return InputError("the files contain no rows", next_step="do nothing: a day without rows needs no import")
