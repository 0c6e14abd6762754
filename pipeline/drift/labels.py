"""Labels that arrive later: imports them by key and day, unchanged, and then measures each day's performance."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING

from pipeline.context import Context, Progress, silent
from pipeline.errors import SchemaMismatch, counted
from pipeline.profiles import store
from pipeline.records import RunRecord

if TYPE_CHECKING:
    from duckdb import DuckDBPyRelation as Relation
    from duckdb import Expression

    from pipeline.ingest.publishing import Existing, PublishedDay
    from pipeline.job.config import Job
    from pipeline.tabular.sources import Files


def import_labels(
    ctx: Context,
    files: Files,
    columns: Sequence[str],
    *,
    ds: str | None,
    partition_by: str | None,
    existing: Existing,
    progress: Progress = silent,
) -> tuple[PublishedDay, ...]:
    """Imports key and label of each row that has a label, then measures the days.

    `columns` is the column of the labels; for a multi-label model it may be one column per label. Raises the errors of
    an import and of `true_labels.labelled`, and SchemaMismatch for a key that is missing or not of the type of the
    job's keys, or that has different labels in one period. Then nothing is stored.
    """
    from pipeline.drift.true_labels import STORED, labelled
    from pipeline.ingest.importing import Into, import_files
    from pipeline.ingest.publishing import Target

    signature = ctx.manifest().signature

    def change(rows: Relation) -> Relation:
        key = [*ctx.job.input.key, *([partition_by] if partition_by else [])]
        found = labelled(rows, key, columns, signature, files)
        _check_key(ctx, found, ds, files)
        _check_one_label(ctx.job, found, partition_by, STORED[signature.task], files)
        return found

    days = import_files(
        ctx.lake,
        ctx.job,
        files,
        ds=ds,
        partition_by=partition_by,
        source=Into(Target(store.labels_folder(ctx.job.name, "{ds}"), "*.parquet"), change),
        existing=existing,
        progress=progress,
    )
    measure_days(ctx, [day.ds for day in days])
    return days


def measure_days(ctx: Context, days: Sequence[str]) -> int:
    """Measures the last complete run of each day, if any; returns the number of labelled predictions."""
    from pipeline.drift import performance

    return sum(performance.measure(ctx, record) for ds in days for record in _newest(ctx, ds))


def _newest(ctx: Context, ds: str) -> list[RunRecord]:
    record = ctx.lake.records.last_complete(ctx.job.name, ds)
    return [] if record is None else [record]


def _check_key(ctx: Context, rows: Relation, ds: str | None, where: object) -> None:
    """Raises SchemaMismatch if the labels lack the key, or if it is not of the type that the job's keys have."""
    from duckdb import ColumnExpression

    from pipeline.database.connection import column_types, connect, read_parquet
    from pipeline.database.keys import check_same_key

    key, types = ctx.job.input.key, column_types(rows)
    with connect(threads=1) as con:
        ctx.lake.storage.attach(con)
        for path in _with_keys(ctx, ds):
            known = column_types(read_parquet(con, [path]))
            advice = f"write the key as it is in {path}, since keys of other types never match"
            check_same_key(key, types, known, "the labels have another key than the job", where, advice)
    missing = reduce(or_, (ColumnExpression(name).isnull() for name in key))
    if count := rows.filter(missing).aggregate("count(*)").fetchall()[0][0]:
        raise SchemaMismatch(
            f"{count:,} labels have no key", where=where, expected=f"a value of {', '.join(key)} in each row"
        )


def _check_one_label(job: Job, rows: Relation, partition_by: str | None, label: str, where: object) -> None:
    """Raises SchemaMismatch if a key has different labels in one period: nobody could say which of them is meant."""
    from duckdb import ColumnExpression, FunctionExpression

    names = [*job.input.key, *([partition_by] if partition_by else [])]
    group = [*map(ColumnExpression, job.input.key), *([_period_of(job, rows, partition_by)] if partition_by else [])]
    keyed = rows.select(*(each.alias(f"k{number}") for number, each in enumerate(group)), label)
    places = [f"k{number}" for number in range(len(group))]
    ends = [FunctionExpression(end, ColumnExpression(label)).alias(end) for end in ("min", "max")]
    twice = keyed.aggregate([*map(ColumnExpression, places), *ends], ", ".join(places))
    twice = twice.filter(ColumnExpression("min") < ColumnExpression("max"))
    if partition_by:  # the import itself refuses a row without a period
        twice = twice.filter(ColumnExpression(places[-1]).isnotnull())
    if count := twice.aggregate("count(*)").fetchall()[0][0]:
        *key, low, high = twice.sort(*places).limit(1).fetchall()[0]
        raise SchemaMismatch(
            f"{counted(count, 'key')} with different labels in one {job.grain}",
            where=where,
            expected="one label per key; a later import may replace it, with --append",
            got=", ".join(f"{name} {value}" for name, value in zip(names, key, strict=True)) + f": {low} and {high}",
        )


def _period_of(job: Job, rows: Relation, column: str) -> Expression:
    """Returns when the period of a row begins, in the job's time zone; NULL if the column does not say."""
    from duckdb import ColumnExpression, ConstantExpression, FunctionExpression

    from pipeline.database.aligning import INSTANTS
    from pipeline.database.connection import column_types

    value = ColumnExpression(column)
    if column_types(rows)[column] in INSTANTS and job.grain != "hour":
        value = FunctionExpression("timezone", ConstantExpression(job.schedule.timezone), value)
    time = FunctionExpression("try", value.cast("TIMESTAMP"))
    return FunctionExpression("date_trunc", ConstantExpression(str(job.grain)), time)


def _with_keys(ctx: Context, ds: str | None) -> list[str]:
    """Returns files that show which key the job has: predictions, else labels, else input; none if there are none."""
    from pipeline.selecting.input import stored_samples

    lake, job = ctx.lake, ctx.job
    if found := list(stored_samples(ctx, ds)):
        return found
    files = [file for file in lake.storage.files(f"labels/job={job.name}") if file.path.endswith(".parquet")]
    if not files and job.input.path and job.input.text:
        files = [file for day in lake.imported_days(job.name)[-1:] for file in lake.imported_files(job.name, day)]
    elif not files and job.input.path and (days := lake.input_days(job.patterns.values())):
        files = list(lake.input_files(job.patterns, days[-1])["unscored"])
    return [lake.storage.where(file.path) for file in files[-1:]]
