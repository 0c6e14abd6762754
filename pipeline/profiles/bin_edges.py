"""The edges of a job's histograms: found once per model, from its training data or its first day."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pipeline.context import Context
from pipeline.database import sql_files, wide
from pipeline.database.connection import column_types, translated_errors
from pipeline.histograms.counting import WHOLE, as_numbers, edges_of
from pipeline.histograms.table import from_table, specs, specs_from_bytes, specs_to_bytes
from pipeline.model.baseline import (
    MOST_COLUMNS,
    numbers,
    numeric_outputs,
    sample_query,
    specs_of,
    specs_of_features,
    specs_of_outputs,
)
from pipeline.model.matrix import to_matrix
from pipeline.model.memory_layout import taken
from pipeline.profiles import store
from pipeline.selecting.triage import rejected
from pipeline.storage.parquet import from_bytes

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation
    from numpy.typing import NDArray

    from pipeline.histograms.counting import Spec
    from pipeline.histograms.table import Profile
    from pipeline.job.config import Policy
    from pipeline.model.manifest import Manifest, Signature

AT_ONCE = 500
"""Maximum number of columns that are sampled by one query: DuckDB holds a sample in memory several times."""
LARGE = 1_000_000
"""Number of rows from which on the edges of a first day are found before it is scored. The stream then counts all rows,
which are not read again; a smaller day is read sooner than it is sampled and the sample scored."""
SCORED = 5_000
"""Number of rows of such a day that are scored for the edges of its predictions, while the workers wait."""


def training(ctx: Context, manifest: Manifest) -> Profile | None:
    """Returns the profile of the training data, or None if there is none. Raises ModelMismatch if it was changed."""
    content = ctx.registry.baseline(manifest)
    return None if content is None else from_table(from_bytes(content))


def load(ctx: Context, manifest: Manifest) -> tuple[Spec, ...] | None:
    """Returns the histogram specs of the job's columns, or None before its first day."""
    content = ctx.lake.storage.read(_key(ctx, manifest))
    if content is None:
        baseline = training(ctx, manifest)
        of_training = None if baseline is None else specs(baseline[WHOLE])
        if (earlier := _of_earlier_lakescore(ctx, manifest, of_training)) is not None:
            return earlier
        if of_training is None:
            return None
        return keep(ctx, manifest, of_training)
    return specs_from_bytes(content)


def keep(ctx: Context, manifest: Manifest, found: Sequence[Spec]) -> tuple[Spec, ...]:
    """Stores the edges unless another run has already done so; returns the stored ones."""
    storage, key = ctx.lake.storage, _key(ctx, manifest)
    content = specs_to_bytes(found)
    return specs_from_bytes(content if storage.update(key, content, None) else storage.read(key) or content)


def _key(ctx: Context, manifest: Manifest) -> str:
    return store.edges_key(ctx.job.name, manifest.version, manifest.digest)


def _of_earlier_lakescore(
    ctx: Context, manifest: Manifest, of_training: tuple[Spec, ...] | None
) -> tuple[Spec, ...] | None:
    """Returns the edges that an earlier version of Lakescore has stored by version alone, or None.

    They are the model's if they are those of its training data or, without any, if it has the same columns.
    """
    content = ctx.lake.storage.read(store.earlier_edges_key(ctx.job.name, manifest.version))
    if content is None:
        return None
    found = specs_from_bytes(content)
    try:
        own = specs_of(manifest.signature, {spec.name: spec.edges for spec in found if not spec.labels})
    except KeyError:  # a column of the model has no edges there
        return None
    return found if set(found) == set(own if of_training is None else of_training) else None


def from_days(con: Connection, features: Relation, predictions: Relation, signature: Signature) -> tuple[Spec, ...]:
    """Finds edges from the rows of a first day, or a sample of them. The relations have the columns by name."""
    of_model = _edges(con, predictions, numeric_outputs(signature))
    edges = _edges(con, features, numbers(signature)) | of_model
    return specs_of(signature, edges)


class Sample:
    """Some rows of a large first day, from which its edges are found before the others are scored."""

    @classmethod
    def of(cls, con: Connection, rows: Relation, signature: Signature, policy: Policy) -> Sample | None:
        """Takes a sample of rows, which have the features by name; None if there are no rows.

        Raises QualityStop where the policy says `fail`.
        """
        from duckdb import ColumnExpression

        columns = {name: ColumnExpression(name) for name in signature.features}
        wide.select(rows, columns).create_view("profiled", replace=True)
        query = "histograms/sample_of_large" if signature.width <= MOST_COLUMNS else "histograms/sample_of_wide"
        batches = con.sql(sql_files.load(query)).to_arrow_table().combine_chunks().to_batches()
        return cls(batches[0], signature, policy) if batches else None

    def __init__(self, batch: pa.RecordBatch, signature: Signature, policy: Policy) -> None:
        matrix = to_matrix(batch, signature.features, signature.inputs)
        names = numbers(signature)
        raw = to_matrix(batch, names) if signature.inputs else matrix
        self._signature = signature
        self.features = specs_of_features(
            signature, {name: edges_of(raw[:, index]) for index, name in enumerate(names)}
        )
        """What is counted of the features."""
        unfit = rejected(matrix, policy)
        self._to_score = matrix if unfit is None else taken(matrix, np.flatnonzero(~unfit))

    def outputs(self, predict: Callable[[NDArray[np.float32]], pa.RecordBatch]) -> tuple[Spec, ...]:
        """Returns what is counted of the predictions; none if the sample has no rows to score.

        `predict` takes a matrix of float32 (rows, columns), and returns the outputs of the model.
        """
        matrix = self._to_score
        if not len(matrix):
            return ()
        among = np.arange(0, len(matrix), -(-len(matrix) // SCORED))
        outputs = predict(taken(matrix, among))
        edges = {name: edges_of(as_numbers(outputs.column(name))) for name in numeric_outputs(self._signature)}
        return specs_of_outputs(self._signature, edges)


def _edges(con: Connection, rows: Relation, names: Sequence[str]) -> dict[str, tuple[float, ...]]:
    from duckdb import ColumnExpression

    from pipeline.quality.output_rules import best

    types, query = column_types(rows), sql_files.load(sample_query(len(names)))
    found: dict[str, tuple[float, ...]] = {}
    for group in (names[at : at + AT_ONCE] for at in range(0, len(names), AT_ONCE)):
        values = (best(name) if types[name].endswith("[]") else ColumnExpression(name) for name in group)
        columns = {f"c{index}": value.cast("FLOAT") for index, value in enumerate(values)}
        wide.select(rows, columns).create_view("profiled", replace=True)
        with translated_errors("the rows of the first day"):
            sample = con.sql(query).to_arrow_table()
        for index, name in enumerate(group):
            found[name] = edges_of(sample.column(f"c{index}").drop_null().to_numpy())
    return found
