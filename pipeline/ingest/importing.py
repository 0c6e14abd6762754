"""Brings CSV, JSON lines and Parquet files into the lake, as one day or as many, in one pass and in bounded memory.

With `partition_by` DuckDB sorts the rows by day (spilling to disk what does not fit), so that one file is open at a time,
whatever the number of days. The column stays in the files, unless its name is that of a folder such as `ds=...`, from
which readers take it. Rows keep no order within a day.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from duckdb import CaseExpression as Case
from duckdb import ColumnExpression as Column
from duckdb import ConstantExpression as Constant
from duckdb import FunctionExpression as Function
from duckdb import StarExpression as Star

from pipeline import database
from pipeline.errors import InputError, JobError, SchemaMismatch, UsageError, nearest
from pipeline.ingest import sources
from pipeline.ingest.publishing import Existing, PublishedDay, Staging, Target, staging
from pipeline.ingest.writing import ROW_GROUP
from pipeline.job import Job
from pipeline.lake import Lake
from pipeline.records import DAY, check_day

if TYPE_CHECKING:
    from duckdb import DuckDBPyRelation as Relation
    from duckdb import Expression

DAY_COLUMN = "__lakescore_day"
EPOCH = date(1970, 1, 1)


def import_files(
    lake: Lake,
    job: Job,
    files: Sequence[Path],
    *,
    ds: str | None = None,
    partition_by: str | None = None,
    types: Mapping[str, str] | None = None,
    existing: Existing = Existing.refuse,
    progress: Callable[[int], None] | None = None,
) -> tuple[PublishedDay, ...]:
    """Imports files of one kind to where the job reads its input, and returns the days in order.

    Give either `ds`, or `partition_by`: the column that says the day of a row (DATE, TIMESTAMP, which counts in the job's
    time zone if it has one of its own, or text `YYYY-MM-DD`). `types` are DuckDB's by column and replace those that were found.
    `progress` is told the number of rows just written.

    Raises UsageError if a day has files (and `existing` says to refuse), InputError for rows without a day or files without
    rows, SchemaMismatch and UnreadableFile for files that cannot be imported. Nothing is visible then.
    """
    if (ds is None) == (partition_by is None):
        raise UsageError("an import needs to know the day", expected="either a day or the column that holds it")
    kind = sources.check_files(files)
    target = target_of(job, lake)
    with ExitStack() as stack:
        work = stack.enter_context(staging(lake, target, existing))
        if ds is not None:
            work.check([check_day(ds)])
        con = stack.enter_context(database.connection(job.engine.memory_limit, job.engine.threads))
        stack.enter_context(sources.explained(kind, files))
        con.execute("SET TimeZone = 'UTC'")
        rows = sources.read(con, kind, files, types or {})
        dropped = _check_path_keys(rows.columns, target, partition_by)
        if ds is not None:
            _write_day(work, rows, ds, progress)
        else:
            ...
        return work.publish()
