"""Splits the rows of a day by key: a bucket gets all rows of the input and all stored predictions of its keys.

A task writes the rows of one part of one source, by `hash(key) % buckets`, into a folder of its own:

    <place>/<source>-<number>-<token>/__bucket=<bucket>/*.parquet

Keys of files are those of `exchange.py`.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from enum import StrEnum
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from duckdb import ColumnExpression, ConstantExpression, FunctionExpression

from pipeline.buckets.exchange import Exchange
from pipeline.buckets.work import Result, Work
from pipeline.context import Context, peak_memory_bytes, timed
from pipeline.database.connection import column_types, read_parquet, rows_by_file, translated_errors
from pipeline.database.keys import key_expression
from pipeline.errors import SchemaMismatch
from pipeline.records import Frozen, Plan
from pipeline.selecting.imported import of_plan
from pipeline.selecting.input import NUMBER, connect_for_job, input_paths, input_rows, rows_by_path, stored_paths
from pipeline.selecting.source import FILE
from pipeline.selecting.views import candidates, judged
from pipeline.storage import make_folder

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation

BUCKET = "__bucket"
TASK_ROWS = 2_000_000
"""Number of rows that one task splits: rows of one file, or of several smaller ones."""
FLUSHED_VALUES = 4_000_000
"""Number of values after which a task writes out what it holds: with 200 columns, DuckDB's default would spill."""


class Source(StrEnum):
    input = "input"
    stored = "stored"
    """Predictions of the partition, by the model of the run."""
    foreign = "foreign"
    """Predictions of the partition, by another model of the same version."""
    other = "other"
    """Predictions of other versions."""


class Piece(Frozen):
    """Some rows of a source."""

    paths: tuple[str, ...]
    first: int | None = None
    """Number of the first row, and of the row after the last, of a file that is split by several tasks."""
    end: int | None = None


class Split(Frozen):
    """A task: the rows of one piece of a source."""

    work: Work
    source: Source
    piece: Piece | None
    """None for all rows: those of a job with a SELECT."""
    place: str
    """Key of the folder for the folders of all tasks."""
    number: int


class Splitted(Result):
    files: dict[int, tuple[str, ...]]
    """Keys of the files that the task has written, by bucket."""
    rows: int


def split(text: str) -> str:
    """Runs a task: writes its rows by bucket."""
    task = Split.model_validate_json(text)
    ctx = task.work.open()
    folder = f"{task.place}/{task.source}-{task.number:05d}-{secrets.token_hex(4)}"
    path = ctx.lake.workspace.path(folder)
    columns = len(task.work.record.plan.features)
    with (
        timed("split") as clock,
        Exchange(ctx).shared(folder),
        connect_for_job(ctx, columns) as con,
        translated_errors(path),
    ):
        rows = _rows(con, task.work, ctx, task.source, task.piece)
        con.execute(f"SET partitioned_write_flush_threshold = {max(2048, FLUSHED_VALUES // len(rows.columns))}")
        make_folder(path.parent)
        of_bucket = FunctionExpression("hash", ColumnExpression("__key")) % ConstantExpression(task.work.buckets)
        names = [ColumnExpression(name) for name in rows.columns if name != "__key"]
        by_bucket = rows.select(*names, of_bucket.cast("INTEGER").alias(BUCKET))
        by_bucket.write_parquet(str(path), partition_by=[BUCKET], compression="lz4_raw")
        found = [file.path for file in ctx.lake.workspace.files(folder)]
        written = rows_by_file(con, [ctx.lake.workspace.where(key) for key in found]) if found else {}
    files: dict[int, tuple[str, ...]] = {}
    for key in found:
        bucket = int(key.removeprefix(f"{folder}/{BUCKET}=").partition("/")[0])
        files[bucket] = (*files.get(bucket, ()), key)
    return Splitted(
        files=files, rows=sum(written.values()), cpu_s=clock.report.cpu_s, peak_memory_bytes=peak_memory_bytes()
    ).model_dump_json()


class Tasks(NamedTuple):
    """How a day is split."""

    tasks: list[Split]
    rows: dict[Source, int]
    """Number of rows by source, which the tasks must find."""
    schemas: dict[Source, str]
    """Key of a file without rows by source: each bucket reads it, so that none lacks a column."""


def tasks(ctx: Context, work: Work, place: str) -> Tasks:
    """Returns the tasks that split a day. Raises SchemaMismatch for a column whose type a Parquet file cannot hold."""
    plan, numbers = work.record.plan, count()
    found = Tasks([], {}, {})
    with connect_for_job(ctx) as con:
        for source in Source:
            if not (files := _files(ctx, plan, work.record.ds, source)):
                continue
            found.schemas[source] = f"{place}/{source}.parquet"
            with translated_errors(work.record.ds, files):
                _write_schema(con, ctx, work, source, found.schemas[source])
                rows = rows_by_file(con, files)
            of_input = source is Source.input
            found.rows[source] = plan.candidates.rows if of_input else sum(rows.values())
            for piece in [None] if of_input and ctx.job.input.select else _pieces(rows):
                task = Split(work=work, source=source, piece=piece, place=place, number=next(numbers))
                found.tasks.append(task)
    return found


def _files(ctx: Context, plan: Plan, ds: str, source: Source) -> list[str]:
    foreign = plan.other_models or ()
    match source:
        case Source.input:
            return input_paths(ctx, of_plan(ctx, plan, ds))
        case Source.stored:
            return stored_paths(ctx, [file for file in plan.base if file not in foreign])
        case Source.foreign:
            return stored_paths(ctx, foreign)
        case Source.other:
            return stored_paths(ctx, plan.other_versions)


def _pieces(rows_of_files: Mapping[str, int]) -> Iterator[Piece]:
    """Yields pieces of about `TASK_ROWS` rows that make up the files."""
    together: list[str] = []
    rows = 0
    for path, found in rows_of_files.items():
        if found > 1.5 * TASK_ROWS:
            parts = -(-found // TASK_ROWS)
            ends = [found * part // parts for part in range(parts + 1)]
            yield from (Piece(paths=(path,), first=ends[part], end=ends[part + 1]) for part in range(parts))
            continue
        if together and rows + found > TASK_ROWS:
            yield Piece(paths=tuple(together))
            together, rows = [], 0
        together.append(path)
        rows += found
    if together:
        yield Piece(paths=tuple(together))


def _rows(con: Connection, work: Work, ctx: Context, source: Source, piece: Piece | None) -> Relation:
    """Returns the rows of a piece, with `__key`. All files of the source decide the types of its columns."""
    plan, job = work.record.plan, ctx.job
    if source is Source.input:
        ds = work.record.ds
        files = of_plan(ctx, plan, ds)
        located = rows_by_path(con, ctx, files, ds, row_number=True)
        rows = input_rows(con, ctx, files, ds) if located is None else _restricted(located, piece)
        return candidates(rows, plan.key, (*plan.carry, *judged(plan)), plan.features)
    rows = _restricted(
        read_parquet(con, _files(ctx, plan, work.record.ds, source), filename=FILE, row_number=True), piece
    )
    columns = [name for name in rows.columns if name not in (FILE, NUMBER)]
    if not (job.policy.carried_change == "publish" or job.policy.withdrawn == "mark"):  # then whole rows are needed
        of_source = () if source is Source.other else ("fingerprint", "revision", *plan.carry)
        columns = [name for name in columns if name in {*plan.key, *of_source}]
    key = key_expression(plan.key, column_types(rows)).alias("__key")
    return rows.select(key, *map(ColumnExpression, columns))


def _restricted(rows: Relation, piece: Piece | None) -> Relation:
    if piece is None:
        return rows
    rows = rows.filter(ColumnExpression(FILE).isin(*map(ConstantExpression, piece.paths)))
    if piece.first is None:
        return rows
    number = ColumnExpression(NUMBER)
    return rows.filter((number >= ConstantExpression(piece.first)) & (number < ConstantExpression(piece.end)))


def _write_schema(con: Connection, ctx: Context, work: Work, source: Source, key: str) -> None:
    """Writes a file without rows but with the columns of a source, whose types must be those that it is read with."""
    rows = _rows(con, work, ctx, source, None)
    names = [name for name in rows.columns if name != "__key"]
    rows = rows.select(*map(ColumnExpression, names)).limit(0)
    path = ctx.lake.workspace.path(key)
    make_folder(path.parent)
    rows.write_parquet(str(path))
    expected, got = column_types(rows), column_types(read_parquet(con, [path]))
    Exchange(ctx).share(key)
    for name in names:
        if expected[name] != got.get(name):
            raise SchemaMismatch(
                f"column {name} cannot be split: a Parquet file cannot hold its type",
                where=work.record.ds,
                expected="a type that is the same after writing and reading",
                got=f"{expected[name]}, which is read as {got.get(name)}",
                next_step="cast it in the job's SELECT, or set name = 'threads' under [engine] in job.toml",
            )
