"""The baseline: a profile of the rows that a model was trained on, features and its own scores. It holds no row."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from pipeline import queries
from pipeline.errors import InputMissing, SchemaMismatch, UsageError
from pipeline.records import now

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation
    from torch import nn

    from pipeline.drift.counting import Spec
    from pipeline.model.manifest import Signature
    from pipeline.model.predictor import Predictor

FILE = "baseline.parquet"
BATCH_ROWS = 122_880
CLASS, CONFIDENCE = "prediction", "prediction_proba"
MOST_VALUES = 1000
"""Of a vocabulary that is counted."""


def make(module: nn.Module, signature: Signature, training: Path) -> bytes:
    """Returns the content of `baseline.parquet`: a sample gives the edges, then all rows are counted in a stream.

    Raises InputMissing, UsageError for a file of another kind, SchemaMismatch for an absent feature or no rows.
    """
    from pipeline import database
    from pipeline.drift.counting import Counting
    from pipeline.drift.tables import to_bytes, to_table
    from pipeline.features import to_matrix
    from pipeline.model.predictor import Predictor

    predictor = Predictor(module, signature, "cpu")
    with database.connection(threads=1) as con, database.explained(training):
        rows = _features(con, training, signature)
        counting = Counting(_specs(con, rows, predictor, training))
        with rows.to_arrow_reader(BATCH_ROWS) as batches:
            for batch in batches:
                counting.add_features(batch, to_matrix(batch, numbers(signature)), numbers(signature))
                counting.add_predictions(*_predicted(predictor, batch))
    return to_bytes(to_table(counting, "training", now(), 0))


def scored_classes(signature: Signature) -> range:
    """Returns the classes whose scores are judged: of two probabilities that sum to one, the second says all."""
    return range(1 if len(signature.classes) == 2 else 0, len(signature.classes))


def numbers(signature: Signature) -> list[str]:
    """Returns the features that are counted as numbers, as they come: before anything stands for NULL."""
    return [name for name in signature.features if _kind(signature, name) == "number"]


def scores(signature: Signature) -> list[str]:
    """Returns the columns of a prediction that are counted as numbers; of a list its first element, the best."""
    from pipeline.model.outputs import output_schema, probabilities

    match signature.task:
        case "classification":
            return [f"prob_class_{index}" for index in scored_classes(signature)]
        case "multilabel":
            return probabilities(signature)
        case "regression":
            return list(output_schema(signature).names)
        case "ranking":
            return ["top_scores"]
        case _:
            assert_never(signature.task)


def numeric_outputs(signature: Signature) -> list[str]:
    """Returns the scores, and of a classification the confidence."""
    return [*scores(signature), *([CONFIDENCE] if signature.task == "classification" else [])]


def specs_of(signature: Signature, edges: dict[str, tuple[float, ...]]) -> tuple[Spec, ...]:
    """Returns what is counted of a model's inputs and outputs; `edges` names all columns of numbers.

    Numbers, and categories by their vocabulary; timestamps and lists are not counted.
    """
    from pipeline.drift.counting import Spec

    found = [Spec("feature", name, edges[name]) for name in numbers(signature)]
    for name, how in signature.inputs.items():
        if how.kind == "category" and len(how.vocabulary) <= MOST_VALUES:
            found.append(Spec("feature", name, labels=tuple(map(str, how.vocabulary))))
    found += [Spec("score", name, edges[name]) for name in scores(signature)]
    if signature.task == "classification":
        found.append(Spec("confidence", CONFIDENCE, edges[CONFIDENCE]))
        found.append(Spec("class", CLASS, labels=tuple(map(str, signature.classes))))
    return tuple(found)


def _kind(signature: Signature, name: str) -> str:
    return signature.inputs[name].kind if name in signature.inputs else "number"


def _predicted(predictor: Predictor, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    """Returns the rows, and what the model gives for them; with declared inputs without those that it cannot take."""
    import numpy as np
    import pyarrow as pa

    from pipeline.features import to_matrix

    signature = predictor.signature
    matrix = to_matrix(batch, signature.features, signature.inputs)
    if signature.inputs:
        valid = np.isfinite(matrix).all(axis=1)
        batch, matrix = batch.filter(pa.array(valid)), matrix[valid]
    return batch, predictor.predict_arrow(matrix, 8192)


def _features(con: Connection, path: Path, signature: Signature) -> Relation:
    from duckdb import ColumnExpression

    names = signature.features
    if not path.is_file():
        raise InputMissing("there are no training data", where=path)
    match path.suffix.lower():
        case ".parquet":
            rows = con.sql("SELECT * FROM read_parquet($path)", params={"path": str(path)})
        case ".csv":
            rows = con.sql("SELECT * FROM read_csv($path)", params={"path": str(path)})
        case _:
            raise UsageError("the kind of file is not known", where=path, expected=".parquet or .csv")
    if missing := [name for name in names if name not in rows.columns]:
        raise SchemaMismatch(
            f"the training data lack {', '.join(missing)}", where=path, expected=", ".join(names), got=rows.columns
        )
    plain = {name: ColumnExpression(name) for name in names}
    plain |= {name: plain[name].cast("FLOAT").alias(name) for name in numbers(signature)}
    return rows.select(*plain.values())


def _specs(con: Connection, rows: Relation, predictor: Predictor, training: Path) -> tuple[Spec, ...]:
    from pipeline.drift.counting import as_numbers, edges_of
    from pipeline.features import to_matrix

    signature = predictor.signature
    names = numbers(signature)
    rows.create_view("profiled")
    sample = con.sql(queries.load("drift/sample")).to_arrow_table().combine_chunks()
    if sample.num_rows == 0:
        raise SchemaMismatch("the training data have no rows", where=training)
    batch = sample.to_batches()[0]
    matrix = to_matrix(batch, names)
    edges = {name: edges_of(matrix[:, index]) for index, name in enumerate(names)}
    _, outputs = _predicted(predictor, batch)
    edges |= {name: edges_of(as_numbers(outputs.column(name))) for name in numeric_outputs(signature)}
    return specs_of(signature, edges)
