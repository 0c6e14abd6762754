"""Measures a day's predictions against labels, by task (docs/drift.md). All of it is computed in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, assert_never

from duckdb import CaseExpression, ColumnExpression, ConstantExpression, FunctionExpression, StarExpression

from pipeline.context import Context
from pipeline.database import sql_files, wide
from pipeline.database.connection import column_types, connect_shared, read_parquet, translated_errors
from pipeline.database.keys import check_same_key, key_expression
from pipeline.drift import true_labels
from pipeline.errors import SchemaMismatch
from pipeline.model.baseline import scored_classes
from pipeline.profiles import store
from pipeline.records import RunRecord, now

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation

    from pipeline.model.manifest import Signature

KS = (1, 5, 10, 20, 50, 100)
"""Numbers of ranks at which a ranking is measured, beside the length of its lists."""
NORMAL = {0.05: -1.6448536269514722, 0.95: 1.6448536269514722}
"""Levels of a regression with a variance that are measured, and these quantiles of the standard normal distribution."""


def measure(ctx: Context, record: RunRecord) -> int:
    """Stores the performance of a complete run's day; returns the number of predictions that have a label.

    Does nothing if the day has no labels. Raises SchemaMismatch if the labels have another key, or are of another task.
    """
    files = [
        ctx.lake.storage.where(file.path) for file in ctx.lake.storage.files(store.labels_folder(record.job, record.ds))
    ]
    if not files or not record.parts:
        return 0
    signature = ctx.manifest_of(record).signature
    with connect_shared(ctx.resources()) as con, translated_errors(record.ds, files):
        ctx.lake.storage.attach(con)
        _create_views(con, ctx, record, files, true_labels.STORED[signature.task])
        total = con.view("current").aggregate("count(*)").fetchall()[0][0]
        ours = [
            ConstantExpression(record.run_id).alias("run_id"),
            ConstantExpression(total).cast("BIGINT").alias("predictions"),
            ConstantExpression(now()).alias("computed_at"),
        ]
        found = of_labelled(con, con.view("labelled"), signature)
        result = con.from_arrow(found).select(StarExpression(), *ours).to_arrow_table()
    store.write(ctx, "performance", record, result)
    return int(result.column("rows")[0].as_py())


def of_labelled(
    con: Connection, labelled: Relation, signature: Signature, classes: Sequence[int] | None = None
) -> pa.Table:
    """Returns how well predictions agree with their labels, which are in the column `label`.

    Rows and columns are those of the view `performance` for the task: one per class or label, or one. `classes` are the
    numbers of those that are measured; by default all, but of two classes only the second.
    """
    import pyarrow as pa

    match signature.task:
        case "classification" | "multilabel":
            scored = _scored(con, labelled, signature)
            wanted = scored_classes(signature) if classes is None else classes
            return pa.concat_tables([_of_class(con, scored, signature, index) for index in wanted])
        case "regression":
            return _of_values(con, labelled, signature)
        case "ranking":
            return _of_lists(con, labelled, signature)
        case _:
            assert_never(signature.task)


def _of_class(con: Connection, scored: Relation, signature: Signature, index: int) -> pa.Table:
    """Returns one row: how well the scores and decisions of one class agree with the labels."""
    name = ConstantExpression(str(signature.classes[index]))
    score = FunctionExpression("list_extract", ColumnExpression("scores"), ConstantExpression(index + 1))
    label, prediction, of_label = map(ColumnExpression, ("label", "prediction", "of_label"))
    if signature.task == "classification":
        positive, predicted = label == name, prediction == name
    else:
        positive, predicted = (FunctionExpression("list_contains", each, name) for each in (label, prediction))
        of_label = CaseExpression(positive, score).otherwise(ConstantExpression(1.0) - score)
    columns = {
        "score": score,
        "positive": positive,
        "predicted": predicted,
        "correct": label == prediction,
        "of_label": of_label,
    }
    rows = scored.select(*(each.alias(name) for name, each in columns.items()))
    rows.create_view("judged", replace=True)
    found = con.sql(sql_files.load("drift/performance"), params={"class": str(signature.classes[index])})
    return found.to_arrow_table()


def _scored(con: Connection, labelled: Relation, signature: Signature) -> Relation:
    """Returns of each row label, prediction, the scores of all classes, and for a classification that of the label.

    Labels and predictions are text, or sorted lists of text. With many classes it is a table, as each of them reads it.
    """
    names = [str(label) for label in signature.classes]
    probabilities = (ColumnExpression(f"prob_class_{index}").cast("DOUBLE") for index in range(len(names)))
    scores = FunctionExpression("list_value", *probabilities).alias("scores")
    prediction = ColumnExpression("prediction")
    if signature.task == "classification":
        rows = labelled.select("label", prediction.cast("VARCHAR").alias("prediction"), scores)
        place = FunctionExpression("list_position", ConstantExpression(names), ColumnExpression("label"))
        of_label = FunctionExpression("list_extract", ColumnExpression("scores"), place)
        rows = rows.select(StarExpression(), of_label.alias("of_label"))
    else:
        ordered = FunctionExpression("list_sort", prediction.cast("VARCHAR[]"))
        rows = labelled.select("label", ordered.alias("prediction"), scores)
    if len(names) <= wide.FEW:
        return rows
    con.execute("DROP TABLE IF EXISTS scored")
    rows.create("scored")
    return con.table("scored")


def _of_values(con: Connection, labelled: Relation, signature: Signature) -> pa.Table:
    from pipeline.model.outputs import quantile

    value = ColumnExpression("value").cast("DOUBLE")
    quantiles = {level: ColumnExpression(quantile(level)).cast("DOUBLE") for level in signature.quantiles}
    if signature.variance:
        deviation = FunctionExpression("sqrt", ColumnExpression("value_variance").cast("DOUBLE"))
        quantiles = {level: value + ConstantExpression(z) * deviation for level, z in NORMAL.items()}
    elif len(signature.quantiles) == 1:
        quantiles = {signature.quantiles[0]: value}
    listed = FunctionExpression("list_value", *(quantiles.values() or [ConstantExpression(None).cast("DOUBLE")]))
    labelled.select(value.alias("value"), "label", listed.alias("quantiles")).create_view("judged", replace=True)
    return con.sql(sql_files.load("drift/performance_regression"), params={"levels": list(quantiles)}).to_arrow_table()


def _of_lists(con: Connection, labelled: Relation, signature: Signature) -> pa.Table:
    assert signature.top is not None
    ks = sorted({*(k for k in KS if k <= signature.top), signature.top})
    items = ColumnExpression("top_items").cast("VARCHAR[]").alias("items")
    labelled.select(items, ColumnExpression("label").alias("relevant")).create_view("judged", replace=True)
    return con.sql(sql_files.load("drift/performance_ranking"), params={"ks": ks}).to_arrow_table()


def _create_views(con: Connection, ctx: Context, record: RunRecord, files: Sequence[str], column: str) -> None:
    """Makes the views `labels` and `stored`, with the key in one form, and from these `current` and `labelled`."""
    stored = read_parquet(con, [ctx.lake.storage.where(file.path) for file in record.parts])
    labels = read_parquet(con, files, filename="filename")
    types = column_types(stored)
    key = record.plan.key
    check_same_key(key, column_types(labels), types, "the labels have another key than the predictions", record.ds)
    check_column(labels, column, record.ds)
    keyed = key_expression(key, types).alias("__key")
    stored.select(keyed, StarExpression()).create_view("stored")
    labels.select(keyed, ColumnExpression(column).alias("label"), ColumnExpression("filename")).create_view("labels")
    con.sql(sql_files.load("drift/current")).create_view("current")
    con.sql(sql_files.load("drift/labelled")).create_view("labelled")


def check_column(labels: Relation, column: str, ds: str) -> None:
    """Raises SchemaMismatch if stored labels are those of another task: the job had another model then."""
    if column not in labels.columns:
        raise SchemaMismatch(
            "the labels were imported for a model of another task",
            where=f"labels of {ds}",
            expected=f"a column {column}",
            got=", ".join(name for name in true_labels.STORED.values() if name in labels.columns),
            next_step=f"lakescore labels import FILES --label COLUMN --date {ds} --replace",
        )
