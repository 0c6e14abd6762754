"""The baseline: a profile of the rows that a model was trained on, features and its own scores. It holds no row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import database, queries
from pipeline.errors import InputMissing, SchemaMismatch, UsageError
from pipeline.records import now

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation
    from torch import nn

    from pipeline.drift.counting import Spec
    from pipeline.model.manifest import Signature
    from pipeline.model.predictor import Predictor

FILE = "baseline.parquet"
BATCH_ROWS = 122_880
CLASS, CONFIDENCE = "prediction", "prediction_proba"


def make(module: nn.Module, signature: Signature, training: Path) -> bytes:
    """Returns the content of `baseline.parquet`: a sample gives the edges, then all rows are counted in a stream.

    Raises InputMissing, UsageError for a file of another kind, SchemaMismatch for an absent feature or no rows.
    """
    from pipeline.drift.counting import Counting
    from pipeline.drift.tables import to_bytes, to_table
    from pipeline.features import to_matrix
    from pipeline.model.predictor import Predictor

    predictor = Predictor(module, signature, "cpu")
    names = list(signature.features)
    with database.connection(threads=1) as con, database.explained(training):
        rows = _features(con, training, names)
        counting = Counting(_specs(con, rows, predictor, training))
        with rows.to_arrow_reader(BATCH_ROWS) as batches:
            for batch in batches:
                matrix = to_matrix(batch, names)
                counting.add_features(batch, matrix, names)
                counting.add_predictions(batch, predictor.predict_arrow(matrix, 8192))
    return to_bytes(to_table(counting, "training", now(), 0))


def scored_classes(signature: Signature) -> range:
    """Returns the classes whose scores are judged: of two probabilities that sum to one, the second says all."""
    return range(1 if len(signature.classes) == 2 else 0, len(signature.classes))


def scores(signature: Signature) -> list[str]:
    return [f"prob_class_{index}" for index in scored_classes(signature)]


def specs_of(signature: Signature, edges: dict[str, tuple[float, ...]]) -> tuple[Spec, ...]:
    """Returns what is counted of a model's inputs and outputs; `edges` names all columns but the class."""
    from pipeline.drift.counting import Spec

    found = [Spec("feature", name, edges[name]) for name in signature.features]
    found += [Spec("score", name, edges[name]) for name in scores(signature)]
    found.append(Spec("confidence", CONFIDENCE, edges[CONFIDENCE]))
    return (*found, Spec("class", CLASS, labels=tuple(map(str, signature.classes))))


def _features(con: Connection, path: Path, names: Sequence[str]) -> Relation:
    from duckdb import ColumnExpression

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
    return rows.select(*(ColumnExpression(name).cast("FLOAT").alias(name) for name in names))


def _specs(con: Connection, rows: Relation, predictor: Predictor, training: Path) -> tuple[Spec, ...]:
    from pipeline.drift.counting import edges_of
    from pipeline.features import to_matrix

    names = predictor.signature.features
    rows.create_view("profiled")
    sample = con.sql(queries.load("drift/sample")).to_arrow_table().combine_chunks()
    if sample.num_rows == 0:
        raise SchemaMismatch("the training data have no rows", where=training)
    matrix = to_matrix(sample.to_batches()[0], names)
    edges = {name: edges_of(matrix[:, index]) for index, name in enumerate(names)}
    outputs = predictor.predict_arrow(matrix, 8192)
    for name in (*scores(predictor.signature), CONFIDENCE):
        edges[name] = edges_of(outputs.column(name).to_numpy(zero_copy_only=False))
    return specs_of(predictor.signature, edges)
