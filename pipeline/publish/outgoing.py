"""The rows that a target is sent, as views over the part files of one run: `predictions`, and of these `outgoing`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import duckdb
from duckdb import ConstantExpression, SQLExpression, StarExpression

from pipeline.columns import KEY_TEXT, RESERVED
from pipeline.context import Context
from pipeline.database import sql_files
from pipeline.database.aligning import with_key_text
from pipeline.database.connection import connect, read_parquet, translated_errors
from pipeline.database.gate import check_expression
from pipeline.errors import JobError, LakeDamaged, QueryRefused, counted
from pipeline.job.targets import Target
from pipeline.lake.layout import Lake
from pipeline.records import RunRecord

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection


def basis_of(lake: Lake, target: Target, record: RunRecord) -> str:
    """Returns the sha256 over what determines the rows: the target's configuration, and the files of the run as now."""
    sha = hashlib.sha256(target.model_dump_json().encode())
    for part in record.parts:
        found = lake.storage.head(part.path)
        sha.update(f"\0{part.path}\0{found.size if found else None}\0{found.etag if found else None}".encode())
    return sha.hexdigest()


@contextmanager
def opened(ctx: Context, target: Target, record: RunRecord) -> Iterator[tuple[Connection, int]]:
    """Yields a connection with the views, and the number of rows of `outgoing`.

    Raises JobError if the target's condition is not one, LakeDamaged if a key occurs twice.
    """
    paths = [ctx.lake.storage.where(part.path) for part in record.parts]
    limits = ctx.resources()
    with connect(limits.memory_limit, limits.threads) as con:
        ctx.lake.storage.attach(con)
        with translated_errors(ctx.lake.storage, paths):
            _create_views(con, target, record, paths)
            rows, keys = con.sql(sql_files.load("publish/counts")).fetchall()[0]
            if rows != keys:
                keys = con.view("outgoing").aggregate(f"count(DISTINCT {KEY_TEXT})").fetchall()[0][0]
            if rows != keys:
                raise LakeDamaged(
                    f"{counted(rows - keys, 'key', ('has', 'have'))} more than one current prediction",
                    where=f"{record.job} {record.ds}, run {record.run_id}",
                    next_step="lakescore verify",
                )
            yield con, rows


def _create_views(con: Connection, target: Target, record: RunRecord, paths: list[str]) -> None:
    parts = with_key_text(read_parquet(con, paths), record.plan.key, RESERVED)
    values = {"job": record.job, "ds": record.ds, "model_version": record.model.version}
    constants = [ConstantExpression(value).alias(name) for name, value in values.items()]
    parts.select(StarExpression(), *constants).create_view("parts")
    predictions = con.sql(sql_files.load("publish/predictions"))
    predictions.create_view("predictions")
    if target.where is None:
        predictions.create_view("outgoing")
        return
    try:
        check_expression(con, target.where, "predictions")
        con.view("predictions").filter(SQLExpression(target.where)).create_view("outgoing")
    except QueryRefused as error:
        raise _invalid(target, error.got or error.what) from None
    except duckdb.OperationalError:
        raise  # memory, or the disk: not what was written
    except duckdb.Error as error:
        raise _invalid(target, str(error)) from None


def _invalid(target: Target, problem: str) -> JobError:
    return JobError(
        f"`where` of the target {target.name!r} is not a condition over the predictions",
        where="[[publish]] in job.toml",
        expected="such as prediction = 'churn' AND prediction_proba > 0.8",
        got=f"{target.where!r}: {problem.splitlines()[0]}",
    )
