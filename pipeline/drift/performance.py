"""Measures a day's predictions against labels: AUC, log-loss, calibration. All of it is computed in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from duckdb import ColumnExpression, ConstantExpression, FunctionExpression, StarExpression

from pipeline.context import Context
from pipeline.database import sql_files, wide
from pipeline.database.connection import column_types, connect_shared, read_parquet, translated_errors
from pipeline.database.keys import check_same_key, key_expression
from pipeline.model.baseline import scored_classes
from pipeline.profiles import store
from pipeline.records import RunRecord, now

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation


def measure(ctx: Context, record: RunRecord) -> int:
    """Stores the performance of a complete run's day; returns the number of predictions that have a label.

    Does nothing if the day has no labels or the task is not classification. Raises SchemaMismatch if the labels have
    another key.
    """
    import pyarrow as pa

    files = [
        ctx.lake.storage.where(file.path) for file in ctx.lake.storage.files(store.labels_folder(record.job, record.ds))
    ]
    if not files or not record.parts:
        return 0
    signature = ctx.manifest_of(record).signature
    if signature.task != "classification":
        return 0
    with connect_shared(ctx.resources()) as con, translated_errors(record.ds, files):
        ctx.lake.storage.attach(con)
        _create_views(con, ctx, record, files)
        total = con.view("current").aggregate("count(*)").fetchall()[0][0]
        ours = [
            ConstantExpression(record.run_id).alias("run_id"),
            ConstantExpression(total).cast("BIGINT").alias("predictions"),
            ConstantExpression(now()).alias("computed_at"),
        ]
        _create_scored(con, signature.classes)
        found = [
            _of_class(con, signature.classes, index).select(StarExpression(), *ours).to_arrow_table()
            for index in scored_classes(signature)
        ]
        result = pa.concat_tables(found)
    store.write(ctx, "performance", record, result)
    return int(result.column("rows")[0].as_py())


def _of_class(con: Connection, classes: Sequence[str | int], index: int) -> Relation:
    """Returns one row: how well the scores of one class agree with the labels."""
    score = FunctionExpression("list_extract", ColumnExpression("scores"), ConstantExpression(index + 1))
    positive = ColumnExpression("label") == ConstantExpression(str(classes[index]))
    columns = (score.alias("score"), positive.alias("positive"), ColumnExpression("of_label"))
    con.table("scored").select(*columns).create_view("judged", replace=True)
    return con.sql(sql_files.load("drift/performance"), params={"class": str(classes[index])})


def _create_scored(con: Connection, classes: Sequence[str | int]) -> None:
    """Creates `scored`: of each labelled row the label, the scores of all classes, and the score of the actual label.

    With many classes it is a table, as each of them reads it.
    """
    names = FunctionExpression("list_value", *(ConstantExpression(str(name)) for name in classes))
    scores = (ColumnExpression(f"prob_class_{index}").cast("DOUBLE") for index in range(len(classes)))
    rows = con.view("labelled").select(
        ColumnExpression("label"), FunctionExpression("list_value", *scores).alias("scores")
    )
    place = FunctionExpression("list_position", names, ColumnExpression("label"))
    of_label = FunctionExpression("list_extract", ColumnExpression("scores"), place).alias("of_label")
    scored = rows.select(StarExpression(), of_label)
    scored.create("scored") if len(classes) > wide.FEW else scored.create_view("scored")


def _create_views(con: Connection, ctx: Context, record: RunRecord, files: Sequence[str]) -> None:
    """Makes the views `labels` and `stored`, with the key in one form, and from these `current` and `labelled`."""
    stored = read_parquet(con, [ctx.lake.storage.where(file.path) for file in record.parts])
    labels = read_parquet(con, files, filename="filename")
    types = column_types(stored)
    key = record.plan.key
    check_same_key(key, column_types(labels), types, "the labels have another key than the predictions", record.ds)
    keyed = key_expression(key, types).alias("__key")
    stored.select(keyed, StarExpression()).create_view("stored")
    labels.select(keyed, ColumnExpression("label"), ColumnExpression("filename")).create_view("labels")
    con.sql(sql_files.load("drift/current")).create_view("current")
    con.sql(sql_files.load("drift/labelled")).create_view("labelled")
