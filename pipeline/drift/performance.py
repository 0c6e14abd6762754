"""How good the predictions of a day were, once labels are there: AUC, log-loss, calibration. All of it is SQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from duckdb import CaseExpression, ColumnExpression, ConstantExpression, StarExpression

from pipeline import database, queries
from pipeline.context import Context
from pipeline.drift import store
from pipeline.keys import check_same_key, key_expression
from pipeline.model.baseline import scored_classes
from pipeline.records import RunRecord, now
from pipeline.relations import union

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation
    from duckdb import Expression


def measure(ctx: Context, record: RunRecord) -> int:
    """Stores the performance of a complete run's day; returns the number of predictions that have a label.

    Does nothing while the day has no labels, or of another task than classification. Raises SchemaMismatch if the
    labels have another key.
    """
    files = [
        ctx.lake.storage.where(file.path) for file in ctx.lake.storage.files(store.labels_folder(record.job, record.ds))
    ]
    if not files or not record.parts:
        return 0
    signature = ctx.registry.resolve(record.model.name, record.model.version).signature
    if signature.task != "classification":
        return 0
    with (
        database.workplace(ctx.job.engine.memory_limit, ctx.job.engine.threads) as con,
        database.explained(record.ds, files),
    ):
        ctx.lake.storage.attach(con)
        _create_views(con, ctx, record, files)
        total = con.view("current").aggregate("count(*)").fetchall()[0][0]
        ours = [
            ConstantExpression(record.run_id).alias("run_id"),
            ConstantExpression(total).cast("BIGINT").alias("predictions"),
            ConstantExpression(now()).alias("computed_at"),
        ]
        found = union([_of_class(con, signature.classes, index) for index in scored_classes(signature)])
        result = found.select(StarExpression(), *ours).to_arrow_table()
    store.write(ctx, "performance", record, result)
    return int(result.column("rows")[0].as_py())


def _of_class(con: Connection, classes: Sequence[str | int], index: int) -> Relation:
    """Returns one row: how the scores of a class went with the labels."""
    label, positive = ColumnExpression("label"), ConstantExpression(str(classes[index]))
    score = ColumnExpression(f"prob_class_{index}").cast("DOUBLE")
    con.view("labelled").select(
        score.alias("score"), (label == positive).alias("positive"), _probability_of_label(classes).alias("of_label")
    ).create_view("judged", replace=True)
    row = con.sql(queries.load("drift/performance"), params={"class": str(classes[index])}).to_arrow_table()
    return con.from_arrow(row)


def _probability_of_label(classes: Sequence[str | int]) -> Expression:
    """Returns the probability that the model gave to the label that came true."""
    found = ConstantExpression(None)
    for index, name in enumerate(classes):
        mine = ColumnExpression("label") == ConstantExpression(str(name))
        found = CaseExpression(mine, ColumnExpression(f"prob_class_{index}").cast("DOUBLE")).otherwise(found)
    return found


def _create_views(con: Connection, ctx: Context, record: RunRecord, files: Sequence[str]) -> None:
    """Makes `labels` and `stored`, by one key, and what rests on them: `current`, `labelled`."""
    stored = database.parquet(con, [ctx.lake.storage.where(file.path) for file in record.parts])
    labels = database.parquet(con, files, filename=True)
    types = database.schema(stored)
    key = record.plan.key
    check_same_key(key, database.schema(labels), types, "the labels have another key than the predictions", record.ds)
    keyed = key_expression(key, types).alias("__key")
    stored.select(keyed, StarExpression()).create_view("stored")
    labels.select(keyed, ColumnExpression("label"), ColumnExpression("filename")).create_view("labels")
    con.sql(queries.load("drift/current")).create_view("current")
    con.sql(queries.load("drift/labelled")).create_view("labelled")
