"""Labels that arrive later: imported by key and day, they stay as they came, and a day's performance follows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.context import Context, Progress, silent
from pipeline.drift import store
from pipeline.errors import SchemaMismatch, nearest
from pipeline.records import RunRecord

if TYPE_CHECKING:
    from duckdb import DuckDBPyRelation as Relation

    from pipeline.ingest.publishing import Existing, PublishedDay
    from pipeline.ingest.sources import Files

LABEL = "label"


def import_labels(
    ctx: Context,
    files: Files,
    column: str,
    *,
    ds: str | None,
    partition_by: str | None,
    existing: Existing,
    progress: Progress = silent,
) -> tuple[PublishedDay, ...]:
    """Imports the key's columns and the label of each row that has one; then measures the days.

    Raises what an import raises, and SchemaMismatch for a label that is no class of the job's model.
    """
    from pipeline.ingest.importing import Into, import_files
    from pipeline.ingest.publishing import Target

    classes = ctx.registry.resolve(ctx.job.model.name, ctx.job.model.version).signature.classes
    known = tuple(str(label) for label in classes)

    def change(rows: Relation) -> Relation:
        return _labelled(rows, [*ctx.job.input.key, *([partition_by] if partition_by else [])], column, known, files)

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
    """Measures the newest complete run of each day, if there is one; returns the labelled predictions."""
    from pipeline.drift import performance

    return sum(performance.measure(ctx, record) for ds in days for record in _newest(ctx, ds))


def _newest(ctx: Context, ds: str) -> list[RunRecord]:
    record = ctx.lake.last_complete(ctx.job.name, ds)
    return [] if record is None else [record]


def _labelled(rows: Relation, key: Sequence[str], column: str, known: Sequence[str], where: object) -> Relation:
    from duckdb import ColumnExpression, ConstantExpression, FunctionExpression

    for name in (*key, column):
        if name not in rows.columns:
            raise SchemaMismatch(
                f"the labels lack a column {name!r}{nearest(name, rows.columns)}",
                where=where,
                expected=f"{', '.join(key)} and the label",
                got=", ".join(rows.columns),
            )
    value = ColumnExpression(column)
    if str(rows.types[rows.columns.index(column)]) == "BOOLEAN":
        value = value.cast("INTEGER")
    whole = FunctionExpression(
        "regexp_replace", value.cast("VARCHAR"), ConstantExpression(r"\.0+$"), ConstantExpression("")
    )
    chosen = rows.filter(value.isnotnull()).select(*map(ColumnExpression, key), whole.alias(LABEL))
    label = ColumnExpression(LABEL)
    unknown = chosen.filter(~label.isin(*map(ConstantExpression, known))).select(label).distinct().limit(3).fetchall()
    if unknown:
        raise SchemaMismatch(
            "a label is no class of the job's model",
            where=where,
            expected=", ".join(known),
            got=", ".join(repr(text) for (text,) in unknown),
            next_step=f"is {column!r} the column of the labels?",
        )
    return chosen
