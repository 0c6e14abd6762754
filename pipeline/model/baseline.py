"""The baseline: a profile of a model's training rows, of their features and scores. It contains no rows."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, assert_never

from pipeline.database import sql_files
from pipeline.database.resources import batch_rows
from pipeline.errors import ModelRefused, SchemaMismatch, nearest
from pipeline.model.inputs import Fit, FixedList, Number
from pipeline.model.user_rows import read_rows
from pipeline.records import now
from pipeline.storage.parquet import to_bytes

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation

    from pipeline.histograms.counting import Spec
    from pipeline.model.manifest import Signature
    from pipeline.model.predictor import Predictor
    from pipeline.tabular.sources import Files

log = logging.getLogger(__name__)

FILE = "baseline.parquet"
CLASS, CONFIDENCE = "prediction", "prediction_proba"
MOST_COLUMNS = 100
"""Maximum number of columns of which a large sample is taken."""
MOST_VALUES = 1000
"""Maximum size of a vocabulary whose category is counted."""


def make(predictor: Predictor, training: Files) -> bytes:
    """Returns the content of `baseline.parquet`: takes the bin edges from a sample, then counts all rows in a stream.

    A row without a finite prediction, for want of a feature, counts with its features alone: a run would not store one.
    Raises SchemaMismatch for an absent feature, one that is not of the signature's kind, or no rows.
    """
    from pipeline.database.connection import connect
    from pipeline.histograms.counting import Counting
    from pipeline.histograms.table import to_table
    from pipeline.model.matrix import to_matrix
    from pipeline.tabular.sources import translated_read_errors

    signature = predictor.signature
    with connect(threads=1) as con, translated_read_errors(training):
        rows = _features(con, training, signature)
        counting = Counting(_specs(con, rows, predictor, training))
        total = scored = 0
        with rows.to_arrow_reader(batch_rows(signature.width)) as batches:
            for batch in batches:
                counting.add_features(batch, to_matrix(batch, numbers(signature)), numbers(signature))
                valid, outputs = _predicted(predictor, batch)
                counting.add_predictions(valid, outputs)
                total, scored = total + batch.num_rows, scored + valid.num_rows
    if scored < total:
        log.warning(
            "%s of %s training rows have no prediction, for want of a feature: the baseline has their features alone",
            f"{total - scored:,}",
            f"{total:,}",
        )
    return to_bytes(to_table(counting, "training", now(), 0))


def sample(signature: Signature, training: Files) -> pa.RecordBatch:
    """Returns the features of a few training rows, the same every time. Raises the errors of `make`."""
    from pipeline.database.connection import connect
    from pipeline.tabular.sources import translated_read_errors

    with connect(threads=1) as con, translated_read_errors(training):
        _features(con, training, signature).create_view("training")
        found = con.sql(sql_files.load("model/sample")).to_arrow_table().combine_chunks()
    if found.num_rows == 0:
        raise SchemaMismatch("the training data has no rows", where=training)
    batch: pa.RecordBatch = found.to_batches()[0]
    return batch


def sample_query(columns: int) -> str:
    """Returns the name of the SELECT that samples rows of so many columns: it holds all of them in memory."""
    return "histograms/sample" if columns <= MOST_COLUMNS else "histograms/sample_of_wide"


def scored_classes(signature: Signature) -> range:
    """Returns the classes whose scores are counted: only the second of two, because two probabilities sum to one."""
    return range(1 if len(signature.classes) == 2 else 0, len(signature.classes))


def numbers(signature: Signature) -> list[str]:
    """Returns the features that are counted as numbers; they are counted raw, before NULL is replaced."""
    return [name for name in signature.features if _kind(signature, name) == "number"]


def scores(signature: Signature) -> list[str]:
    """Returns the prediction columns that are counted as numbers; of a list, the first (best) element is counted."""
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
    """Returns the score columns, and for a classification also the confidence."""
    return [*scores(signature), *([CONFIDENCE] if signature.task == "classification" else [])]


def specs_of(signature: Signature, edges: Mapping[str, tuple[float, ...]]) -> tuple[Spec, ...]:
    """Returns the columns to count of a model's inputs and outputs; `edges` must have every numeric column."""
    return (*specs_of_features(signature, edges), *specs_of_outputs(signature, edges))


def specs_of_features(signature: Signature, edges: Mapping[str, tuple[float, ...]]) -> tuple[Spec, ...]:
    """Returns the inputs to count: numbers, and categories by their vocabulary; no timestamps and lists."""
    from pipeline.histograms.counting import Spec

    found = [Spec("feature", name, edges[name]) for name in numbers(signature)]
    for name, how in signature.inputs.items():
        if how.kind == "category" and len(how.vocabulary) <= MOST_VALUES:
            found.append(Spec("feature", name, labels=tuple(map(str, how.vocabulary))))
    return tuple(found)


def specs_of_outputs(signature: Signature, edges: Mapping[str, tuple[float, ...]]) -> tuple[Spec, ...]:
    """Returns the outputs to count: scores, and of a classification also the confidence and the class."""
    from pipeline.histograms.counting import Spec

    found = [Spec("score", name, edges[name]) for name in scores(signature)]
    if signature.task == "classification":
        found.append(Spec("confidence", CONFIDENCE, edges[CONFIDENCE]))
        found.append(Spec("class", CLASS, labels=tuple(map(str, signature.classes))))
    return tuple(found)


def _kind(signature: Signature, name: str) -> str:
    return signature.inputs[name].kind if name in signature.inputs else "number"


def _predicted(predictor: Predictor, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    """Returns the rows that have a finite prediction, and their predictions."""
    import numpy as np
    import pyarrow as pa

    from pipeline.histograms.counting import as_numbers
    from pipeline.model.matrix import to_matrix

    signature = predictor.signature
    matrix = to_matrix(batch, signature.features, signature.inputs)
    if signature.inputs:
        valid = np.isfinite(matrix).all(axis=1)
        batch, matrix = batch.filter(pa.array(valid)), matrix[valid]
    outputs = predictor.predict_arrow(matrix, 8192)
    numbers_out = [as_numbers(outputs.column(name)) for name in numeric_outputs(signature)]
    finite = pa.array(np.isfinite(numbers_out).all(axis=0))
    return batch.filter(finite), outputs.filter(finite)


def _features(con: Connection, files: Files, signature: Signature) -> Relation:
    from duckdb import ColumnExpression

    names = signature.features
    rows = read_rows(con, files, signature)
    if missing := [name for name in names if name not in rows.columns]:
        raise SchemaMismatch(
            f"the training data has no {', '.join(name + nearest(name, rows.columns) for name in missing)}",
            where=files,
            expected=", ".join(names),
            got=", ".join(rows.columns),
            next_step="correct --features, or the header of the file",
        )
    plain = {name: ColumnExpression(name) for name in names}
    for name in numbers(signature):
        how = signature.inputs.get(name)
        kind = "DOUBLE" if isinstance(how, Number) and how.scale else "FLOAT"  # scaled before it is rounded
        plain[name] = plain[name].cast(kind).alias(name)
    return rows.select(*plain.values())


def _specs(con: Connection, rows: Relation, predictor: Predictor, training: Files) -> tuple[Spec, ...]:
    from pipeline.histograms.counting import as_numbers, edges_of
    from pipeline.model.matrix import to_matrix

    signature = predictor.signature
    names = numbers(signature)
    rows.create_view("profiled")
    sample = con.sql(sql_files.load(sample_query(len(rows.columns)))).to_arrow_table().combine_chunks()
    if sample.num_rows == 0:
        raise SchemaMismatch("the training data has no rows", where=training)
    batch = sample.to_batches()[0]
    matrix = to_matrix(batch, names)
    edges = {name: edges_of(matrix[:, index]) for index, name in enumerate(names)}
    _, outputs = _predicted(predictor, batch)
    edges |= {name: edges_of(as_numbers(outputs.column(name))) for name in numeric_outputs(signature)}
    return specs_of(signature, edges)


def fitted(signature: Signature, training: Files | None, where: object) -> Signature:
    """Returns the signature with each `fit` of a scale replaced by values of the training rows.

    The standard deviation is that over all rows (divided by their number), as of sklearn's StandardScaler. NULL is
    replaced if the signature says by what, and else ignored. Raises the errors of `make`, and ModelRefused without
    training data or if a feature has not two different values.
    """
    while names := signature.unfitted:
        if training is None:
            raise ModelRefused(
                f"the scale of {', '.join(names)} is to be fitted, but there is no training data",
                where=where,
                next_step="pass --baseline with the training rows",
            )
        signature = _fitted_once(signature, names, training)
    return signature


def _fitted_once(signature: Signature, names: Sequence[str], training: Files) -> Signature:
    """Fits the first step of each of the features that is to be fitted."""
    import numpy as np

    from pipeline.database.connection import connect
    from pipeline.model.encoding import doubles
    from pipeline.model.scaling import Moments, scaled
    from pipeline.tabular.sources import translated_read_errors

    places, moments = {}, {}
    for name in names:
        how = signature.inputs[name]
        assert isinstance(how, Number | FixedList)
        places[name] = how, next(place for place, step in enumerate(how.scale) if isinstance(step, Fit))
        moments[name] = Moments(how.width)
    with (
        connect(threads=1) as con,
        translated_read_errors(training),
        _features(con, training, signature).to_arrow_reader(batch_rows(signature.width)) as batches,
    ):
        for batch in batches:
            for name, (how, place) in places.items():
                values = doubles(batch.column(name), how, name)
                if how.null is not None:
                    values = np.where(np.isnan(values), how.null, values)
                moments[name].add(scaled(values, how.scale[:place]))
    inputs = dict(signature.inputs)
    for name, (how, place) in places.items():
        fit = how.scale[place]
        assert isinstance(fit, Fit)
        step = moments[name].step(fit, name, training)
        inputs[name] = how.model_copy(update={"scale": (*how.scale[:place], step, *how.scale[place + 1 :])})
    return signature.model_copy(update={"inputs": inputs})
