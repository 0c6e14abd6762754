"""The input of a day: its files, the checks of their columns, and their rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC
from typing import TYPE_CHECKING

import duckdb
from duckdb import ColumnExpression, ConstantExpression

from pipeline.columns import HIVE, OF_REJECTED
from pipeline.context import Context
from pipeline.database.aligning import INSTANTS, WITHOUT_ZONE
from pipeline.database.connection import column_types, columns_by_file, connect_shared, read_parquet, rows_by_file
from pipeline.database.gate import check_select
from pipeline.database.keys import CORRECT_KEY, KEY_TYPES, canonical, check_same_key, check_stored_key
from pipeline.database.widening import check_widened
from pipeline.errors import (
    InputChanged,
    InputEmpty,
    InputError,
    InputMissing,
    JobError,
    ModelMismatch,
    QueryRefused,
    SchemaMismatch,
    counted,
    nearest,
)
from pipeline.job.config import Job
from pipeline.job.project import DEFAULT_JOB
from pipeline.lake.layout import Partition
from pipeline.model.identity import check_pinned, check_trusted
from pipeline.model.schema_check import check_fit, check_nulls
from pipeline.periods import Grain, Period
from pipeline.records import FileInfo, Plan, same_files
from pipeline.selecting.imported import InputFiles, reading_only, signature_of, to_read
from pipeline.selecting.source import FILE, check_no_table, folders_of, rows_of
from pipeline.tabular.spelling import Spelling

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation

    from pipeline.model.manifest import Manifest

NUMBER = "file_row_number"
TYPED_KEY = (
    "say the type of the key under [input], in the first place, such as types = { id = 'VARCHAR' }: text tells it only "
    "for one day; a job with another key needs a new name"
)
Files = Mapping[str, Sequence[FileInfo]]
"""The files of a day by the name of the view that reads them."""


def input_files(ctx: Context, ds: str) -> dict[str, tuple[FileInfo, ...]]:
    """Returns the day's input files by source.

    Raises InputMissing if a source has none, InputError if they belong to a table with a log of its own.
    """
    files = ctx.lake.input_files(ctx.job.patterns, ds)
    for name, pattern in ctx.job.patterns.items():
        if not files[name]:
            days = ctx.lake.input_days([pattern])
            raise InputMissing(
                f"there is no input for {ds}",
                where=ctx.lake.storage.where(pattern.files_of(ctx.job.period(ds))),
                got=f"{counted(len(days), str(ctx.job.grain))}, {days[0]} to {days[-1]}"
                if len(days) > 1
                else days[0]
                if days
                else f"no {ctx.job.grain} at all",
                next_step="write the files there: a run imports them"
                if name in ctx.job.input.text
                else _supply(ctx.job, ds, days),
            )
        check_no_table(ctx.lake, pattern.text, files[name])
    return files


def _supply(job: Job, ds: str, days: Sequence[str]) -> str:
    """Returns how a period gets its input, and the newest of the `days` that have some.

    The rows that `generate` makes up are only of use to the default job.
    """
    made_up = f", or lakescore generate --date {ds}" if job.name == DEFAULT_JOB else ""
    newest = f"; the newest with input is {days[-1]}: --date {days[-1]}" if days else ""
    return f"lakescore import FILES --job {job.name} --date {ds}{made_up}{newest}"


def check_input_unchanged(ctx: Context, plan: Plan, ds: str) -> None:
    """Raises InputChanged if the listing of the input differs from the plan's."""
    now = ctx.lake.input_files(ctx.job.patterns, ds)
    if not same_files(plan.input, now):
        changed = {
            file.path for name in plan.input for file in set(plan.input[name]).symmetric_difference(now.get(name, ()))
        }
        raise InputChanged(
            f"the input of {ds} changed while it was scored",
            where=", ".join(sorted(changed)[:3]),
            next_step="run again: rows that are already scored are kept",
        )


def check_input(ctx: Context, manifest: Manifest, ds: str) -> InputFiles:
    """Checks the day's input like `check_input_by`, by a connection of its own."""
    with connect_for_job(ctx, len(manifest.signature.features)) as con:
        return check_input_by(con, ctx, manifest, ds)


def check_input_by(con: Connection, ctx: Context, manifest: Manifest, ds: str) -> InputFiles:
    """Checks that the columns of the day's input fit job and model, and returns its files.

    Reads footers only, except that it imports text of which there is no current copy. Raises InputMissing,
    SchemaMismatch, UnreadableFile, ModelMismatch, or ModelRefused for untrusted code.
    """
    check_pinned(manifest, ctx.job.model.digest)
    check_trusted(manifest, ctx.job.model.trusted)
    files = to_read(ctx, input_files(ctx, ds), ds, manifest.signature)
    _check_schema(con, ctx, manifest, files, ds)
    return files


@contextmanager
def readable_input(ctx: Context, ds: str) -> Iterator[Files]:
    """Yields the files with the rows of a day, as it is now; the lake stays as it is.

    Raises InputMissing, and what an import of text raises.
    """
    listed = input_files(ctx, ds)
    with reading_only(ctx) as reading:
        yield to_read(reading, listed, ds, signature_of(ctx)).read


@contextmanager
def connect_for_job(ctx: Context, columns: int = 0) -> Iterator[Connection]:
    """Opens an empty DuckDB database that can read the lake, with the memory for rows of a number of columns."""
    with connect_shared(ctx.resources(columns)) as con:
        ctx.lake.storage.attach(con)
        if ctx.frugal:
            con.execute("SET disable_parquet_prefetching = true")
        yield con


def input_rows(con: Connection, ctx: Context, files: Files, ds: str) -> Relation:
    """Returns the rows of the input: those of the files, or of the job's SELECT over its sources."""
    period, zone = ctx.job.period(ds), ctx.job.schedule.timezone
    text = ctx.job.select_text
    if text is None:
        rows = rows_of(con, ctx.lake, ctx.job, "unscored", files["unscored"])
        return of_period(rows, ctx.job.input.partition_by, period, zone)
    for name, found in files.items():
        rows_of(con, ctx.lake, ctx.job, name, found).create_view(name, replace=True)
    where = ctx.job.folder / str(ctx.job.input.select)
    try:
        check_select(con, text, files)
        values = {"ds": ds, "start": period.start(zone).astimezone(UTC), "end": period.end(zone).astimezone(UTC)}
        used = con.extract_statements(text)[0].named_parameters
        return con.sql(text, params={name: value for name, value in values.items() if name in used})
    except QueryRefused as error:
        raise JobError(
            f"the job's SELECT does not work: {error.what}",
            where=where,
            expected=error.expected,
            got=error.got,
            next_step=error.next_step,
        ) from None
    except duckdb.ProgrammingError as error:  # invalid SQL, or an unknown table, column or parameter
        raise JobError(f"the job's SELECT does not work: {error}", where=where, expected=", ".join(files)) from None


def rows_by_path(con: Connection, ctx: Context, files: Files, ds: str, *, row_number: bool = False) -> Relation | None:
    """Returns the rows of the input with the path of each in `source.FILE`; None if they come from a SELECT.

    `row_number` adds the column NUMBER, the place of each in its file.
    """
    if ctx.job.select_text is not None:
        return None
    rows = rows_of(con, ctx.lake, ctx.job, "unscored", files["unscored"], filename=FILE, row_number=row_number)
    return of_period(rows, ctx.job.input.partition_by, ctx.job.period(ds), ctx.job.schedule.timezone)


def of_period(rows: Relation, column: str | None, period: Period, zone: str) -> Relation:
    """Returns the rows whose value in `column` lies in a period; all rows without a column.

    A column with a time zone holds instants. One without holds days and times as written: those of the job's time zone,
    as for `lakescore import --partition-by`. Raises SchemaMismatch for a column of another type, or if an hour cannot
    be told.
    """
    if column is None:
        return rows
    kind = column_types(rows).get(column, "no column of that name")
    begin, end = period.start(zone), period.end(zone)
    low: object
    high: object
    if kind in INSTANTS:
        low, high = begin.astimezone(UTC), end.astimezone(UTC)
    elif period.grain is Grain.hour and zone != "UTC":
        raise SchemaMismatch(
            f"column {column} does not tell the hour of a row",
            expected=f"a timestamp with a time zone: one without may be in UTC or in {zone}",
            got=kind,
            next_step=f"read the files by a SELECT, and compare timezone('UTC', {column}) with $start and $end",
        )
    elif kind in WITHOUT_ZONE and not (kind == "DATE" and period.grain is Grain.hour):
        low, high = begin.replace(tzinfo=None), end.replace(tzinfo=None)
    else:
        raise SchemaMismatch(
            f"column {column} does not tell the {period.grain} of a row",
            expected="a timestamp" if period.grain is Grain.hour else "a date or a timestamp",
            got=kind,
            next_step="name another column as partition_by, or read the files by a SELECT",
        )
    value = ColumnExpression(column)
    return rows.filter((value >= ConstantExpression(low)) & (value < ConstantExpression(high)))


def _check_times(con: Connection, ctx: Context, files: Files) -> None:
    """Raises InputError for rows that are of no period: no run would ever score them."""
    column = ctx.job.input.partition_by
    if column is None:
        return
    rows = rows_of(con, ctx.lake, ctx.job, "unscored", files["unscored"])
    without = rows.filter(ColumnExpression(column).isnull()).aggregate("count(*)").fetchall()[0][0]
    if without:
        raise InputError(
            f"{counted(without, 'row', ('has', 'have'))} no {column}, so no {ctx.job.grain} would have them",
            next_step="correct the files, or choose the rows by a SELECT",
        )


def _check_schema(con: Connection, ctx: Context, manifest: Manifest, input_: InputFiles, ds: str) -> None:
    """Checks columns and types, file by file, before any row is read."""
    needed = (*ctx.job.input.key, *ctx.job.input.carry, *([time] if (time := ctx.job.input.partition_by) else []))
    files = input_.read
    _check_names(manifest)
    check_nulls(manifest, ctx.job.policy.null_features, ctx.job.folder / "job.toml")
    if ctx.job.input.select:
        for source in files.values():
            check_widened(con, _types_by_file(con, ctx, source))
        found = {str(ctx.job.folder / ctx.job.input.select): column_types(input_rows(con, ctx, files, ds))}
    else:
        found = _columns_of_files(con, ctx, manifest, input_, ds)
    for where, columns in found.items():
        spelling = Spelling.job if input_.imported and not ctx.job.input.select else Spelling.command
        check_fit(manifest, ctx.job.input.features, columns, where, spelling, job=ctx.job.folder / "job.toml")
        if missing := [name for name in needed if name not in columns]:
            raise SchemaMismatch(
                f"the input lacks {', '.join(missing)}{nearest(missing[0], list(columns))}",
                where=where,
                expected=", ".join(needed),
                got=", ".join(columns),
                next_step="correct the file, or `key` and `carry` in job.toml",
            )
        for name in ctx.job.input.key:
            if canonical(columns[name]) not in KEY_TYPES:
                raise SchemaMismatch(
                    f"column {name} cannot be a key",
                    where=where,
                    expected="an integer of up to 64 bits, text, a date, a timestamp or a boolean",
                    got=columns[name],
                    next_step="write it as one of these, or cast it in the job's SELECT",
                )
        _check_extra(ctx, manifest, columns, where)
    first, *others = found.items()
    for where, columns in others:
        check_same_key(ctx.job.input.key, columns, first[1], "the files of a day have keys of different types", where)
    if ctx.job.input.partition_by:
        input_rows(con, ctx, files, ds)
        _check_times(con, ctx, files)
    for path in stored_samples(ctx, ds):
        step = TYPED_KEY if input_.imported and not ctx.job.input.select else CORRECT_KEY
        check_stored_key(ctx.job.input.key, first[1], column_types(read_parquet(con, [path])), path, step)


def _columns_of_files(
    con: Connection, ctx: Context, manifest: Manifest, input_: InputFiles, ds: str
) -> dict[str, dict[str, str]]:
    """Returns the type of each column by the path of each file that has rows. Raises InputEmpty if none has."""
    features, files = manifest.signature.features, input_.read["unscored"]
    found = _types_by_file(con, ctx, files)
    if not found:
        raise empty_input(ds, describe_files(input_.listed))
    if input_.imported:
        return {describe_files(input_.listed): columns for columns in found.values()}
    inputs = manifest.signature.inputs
    kept = [name for name in features if name in inputs and inputs[name].kind != "number"]  # those are rounded anyway
    check_widened(con, found, {*ctx.job.input.carry, *kept})
    held = {name for columns in found.values() for name in columns}
    names, compared = folders_of(ctx.job, "unscored", files, held, features)
    if compared or len(files) > 1:
        rows_of(con, ctx.lake, ctx.job, "unscored", files, features)  # raises if they do not agree
    of_folders, replaced = dict.fromkeys(names, "VARCHAR"), {name.lower() for name in names}
    return {
        path: {name: kind for name, kind in columns.items() if name.lower() not in replaced} | of_folders
        for path, columns in found.items()
    }


def _types_by_file(con: Connection, ctx: Context, files: Sequence[FileInfo]) -> dict[str, dict[str, str]]:
    """Returns the type of each column in the files that have rows, by path. Raises the errors of `columns_by_file`."""
    found = columns_by_file(con, stored_paths(ctx, files))
    rows = rows_by_file(con, list(found))
    return {path: columns for path, columns in found.items() if rows[path]}


def empty_input(ds: str, where: str) -> InputEmpty:
    return InputEmpty(
        f"the input of {ds} has no rows",
        where=where,
        expected="at least one row, or empty_input = 'skip' in [policy]",
        next_step="import the day again, or let the job skip such days",
    )


def stored_samples(ctx: Context, ds: str | None) -> Iterator[str]:
    """Yields a part file of each version of the day, and of the newest other day with any: these have stored keys."""
    lake, job = ctx.lake, ctx.job.name
    days = sorted(set(lake.prediction_days(job)) - {ds}, reverse=True)
    for day in days if ds is None else (ds, *days):
        parts = [lake.parts(Partition(job, day, version))[:1] for version in lake.versions(job, day)]
        yield from (lake.storage.where(file.path) for found in parts for file in found)
        if day != ds and any(parts):
            return


def _check_names(manifest: Manifest) -> None:
    for name in manifest.signature.features:
        if name.casefold() in OF_REJECTED or name.startswith("__"):
            raise ModelMismatch(
                f"a feature of model {manifest.name} {manifest.version} has a reserved column name",
                expected=f"a name other than {', '.join(OF_REJECTED)} that does not begin with __",
                got=name,
                next_step="register it with other feature names, and rename the columns in the job's SELECT",
            )


def _check_extra(ctx: Context, manifest: Manifest, columns: Iterable[str], where: str) -> None:
    known = {*ctx.job.input.key, *ctx.job.input.carry, *manifest.signature.features, *HIVE, ctx.job.input.partition_by}
    if ctx.job.policy.extra_columns == "fail" and (extra := [name for name in columns if name not in known]):
        raise SchemaMismatch(
            f"the input has columns that the job does not know: {', '.join(extra)}",
            where=where,
            next_step="carry them, or set extra_columns = 'ignore'",
        )


def input_paths(ctx: Context, files: Files) -> list[str]:
    return [ctx.lake.storage.where(file.path) for found in files.values() for file in found]


def stored_paths(ctx: Context, files: Iterable[FileInfo]) -> list[str]:
    return [ctx.lake.storage.where(file.path) for file in files]


def describe_files(files: Files) -> str:
    paths = [file.path for found in files.values() for file in found]
    return paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
