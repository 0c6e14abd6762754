"""The input of a day: its files, what they must look like, and their rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import duckdb

from pipeline import database
from pipeline.context import Context
from pipeline.errors import InputChanged, InputMissing, JobError, ModelMismatch, SchemaMismatch, nearest
from pipeline.keys import KEY_TYPES, canonical, check_same_key, check_stored_key
from pipeline.lake import Partition
from pipeline.machine import usable_cores
from pipeline.model.fit import check_fit
from pipeline.model.registry import check_pinned, check_trusted
from pipeline.records import FileInfo, Plan

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation

    from pipeline.model.manifest import Manifest

Files = Mapping[str, Sequence[FileInfo]]
"""The files of a day by the name of the view that reads them."""
HIVE = ("job", "ds", "model_version")
OF_QUARANTINE = ("reasons", "run_id", "quarantined_at")
"""Our columns beside the features, in the files of rejected rows."""


def input_files(ctx: Context, ds: str) -> dict[str, tuple[FileInfo, ...]]:
    """Raises InputMissing if a source has no file for the day."""
    files = ctx.lake.input_files(ctx.job.input.patterns, ds)
    for name, pattern in ctx.job.input.patterns.items():
        if not files[name]:
            days = ctx.lake.input_days([pattern])
            raise InputMissing(
                f"there is no input for {ds}",
                where=ctx.lake.storage.where(pattern.replace("{ds}", ds)),
                got=f"{len(days)} days, {days[0]} to {days[-1]}" if days else "no day at all",
                next_step=f"lakescore import FILES --date {ds}, or lakescore generate --date {ds}",
            )
    return files


def check_input_unchanged(ctx: Context, plan: Plan, ds: str) -> None:
    """Raises InputChanged if the listing of the input is not that of the plan."""
    now = ctx.lake.input_files(ctx.job.input.patterns, ds)
    if now != plan.input:
        changed = {
            file.path for name in plan.input for file in set(plan.input[name]).symmetric_difference(now.get(name, ()))
        }
        raise InputChanged(
            f"the input of {ds} changed while it was scored",
            where=", ".join(sorted(changed)[:3]),
            next_step="run again: what is scored already is kept",
        )


def check_input(ctx: Context, manifest: Manifest, ds: str) -> dict[str, tuple[FileInfo, ...]]:
    """Returns the day's input files, whose columns fit the job and the model. Reads footers only.

    Raises InputMissing, SchemaMismatch, UnreadableFile, ModelMismatch, or ModelRefused for code without trust.
    """
    check_pinned(manifest, ctx.job.model.digest)
    check_trusted(manifest, ctx.job.model.trusted)
    files = input_files(ctx, ds)
    with connection(ctx) as con:
        _check_schema(con, ctx, manifest, files, ds)
    return files


@contextmanager
def connection(ctx: Context, *, spare: int = 0) -> Iterator[Connection]:
    """Opens an empty database in DuckDB, which leaves `spare` cores of several to what goes on meanwhile.

    A thread more than there are cores, and each of them takes longer. Such an instance of DuckDB is not kept, so that
    its memory is free again, too.
    """
    engine = ctx.job.engine
    if spare:
        opened = database.connection(engine.memory_limit, max(1, (engine.threads or usable_cores()) - spare))
    else:
        opened = database.workplace(engine.memory_limit, engine.threads)
    with opened as con:
        ctx.lake.storage.attach(con)
        yield con


def rows(con: Connection, ctx: Context, files: Files, ds: str) -> Relation:
    """Returns the input: the files' rows, or those of the job's SELECT over its sources."""
    for name, found in files.items():
        database.parquet(con, paths(ctx, {name: found})).create_view(name, replace=True)
    text = ctx.job.select_text
    if text is None:
        return con.view("unscored")
    where = ctx.job.folder / str(ctx.job.input.select)
    try:
        statements = con.extract_statements(text)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise JobError("the job's SQL must be one SELECT", where=where, got=f"{len(statements)} statements")
        parameters = {"ds": ds} if "ds" in statements[0].named_parameters else {}
        return con.sql(text, params=parameters)
    except duckdb.ProgrammingError as error:  # no SQL, or no such table, column or parameter
        raise JobError(f"the job's SELECT does not work: {error}", where=where, expected=", ".join(files)) from None


def _check_schema(con: Connection, ctx: Context, manifest: Manifest, files: Files, ds: str) -> None:
    """Checks columns and types, file by file, before any row is read."""
    needed = (*ctx.job.input.key, *ctx.job.input.carry)
    _check_names(manifest)
    found = database.columns_by_file(con, paths(ctx, files))
    if ctx.job.input.select:
        found = {str(ctx.job.folder / ctx.job.input.select): database.schema(rows(con, ctx, files, ds))}
    for where, columns in found.items():
        check_fit(manifest, ctx.job.input.features, columns, where)
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
    for path in _witnesses(ctx, ds):
        check_stored_key(ctx.job.input.key, first[1], database.schema(database.parquet(con, [path])), path)


def _witnesses(ctx: Context, ds: str) -> Iterator[str]:
    """Yields a stored file of each version of the day, and one of the newest other day: these tell the stored key."""
    lake, job = ctx.lake, ctx.job.name
    for day in (ds, *sorted(set(lake.prediction_days(job)) - {ds}, reverse=True)):
        parts = [lake.parts(Partition(job, day, version))[:1] for version in lake.versions(job, day)]
        yield from (lake.storage.where(file.path) for found in parts for file in found)
        if day != ds and any(parts):
            return


def _check_names(manifest: Manifest) -> None:
    for name in manifest.signature.features:
        if name.casefold() in OF_QUARANTINE or name.startswith("__"):
            raise ModelMismatch(
                f"a feature of model {manifest.name} {manifest.version} has the name of a column of ours",
                expected=f"other names than {', '.join(OF_QUARANTINE)} and those that begin with __",
                got=name,
                next_step="register it with other names for its features, and rename the columns in the job's SELECT",
            )


def _check_extra(ctx: Context, manifest: Manifest, columns: Iterable[str], where: str) -> None:
    known = {*ctx.job.input.key, *ctx.job.input.carry, *manifest.signature.features, *HIVE}
    if ctx.job.policy.extra_columns == "fail" and (extra := [name for name in columns if name not in known]):
        raise SchemaMismatch(
            f"the input has columns that the job does not know: {', '.join(extra)}",
            where=where,
            next_step="carry them, or set extra_columns = 'ignore'",
        )


def paths(ctx: Context, files: Files) -> list[str]:
    return [ctx.lake.storage.where(file.path) for found in files.values() for file in found]


def where_all(ctx: Context, files: Iterable[FileInfo]) -> list[str]:
    return [ctx.lake.storage.where(file.path) for file in files]


def where(files: Files) -> str:
    paths = [file.path for found in files.values() for file in found]
    return paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
