"""The edges of a job's histograms: found once for a model version, from its training data or its first day."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline import database, queries
from pipeline.context import Context
from pipeline.drift import store
from pipeline.drift.counting import WHOLE, edges_of
from pipeline.drift.tables import from_bytes, from_table, specs, specs_from_bytes, specs_to_bytes
from pipeline.model.baseline import numbers, numeric_outputs, specs_of

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation

    from pipeline.drift.counting import Spec
    from pipeline.drift.tables import Profile
    from pipeline.model.manifest import Manifest, Signature


def training(ctx: Context, manifest: Manifest) -> Profile | None:
    """Returns the profile of the training data, if the model brought one. Raises ModelMismatch if it was changed."""
    content = ctx.registry.baseline(manifest)
    return None if content is None else from_table(from_bytes(content))


def load(ctx: Context, manifest: Manifest) -> tuple[Spec, ...] | None:
    """Returns what the columns of this job are counted by, or None before its first day."""
    storage, key = ctx.lake.storage, store.edges_key(ctx.job.name, manifest.version)
    content = storage.read(key)
    if content is None:
        baseline = training(ctx, manifest)
        if baseline is None:
            return None
        content = keep(ctx, manifest, specs(baseline[WHOLE]))
    return specs_from_bytes(content)


def keep(ctx: Context, manifest: Manifest, found: Sequence[Spec]) -> bytes:
    """Stores the edges, unless another run was faster; returns those that are stored then."""
    storage, key = ctx.lake.storage, store.edges_key(ctx.job.name, manifest.version)
    content = specs_to_bytes(found)
    return content if storage.update(key, content, None) else storage.read(key) or content


def from_days(con: Connection, features: Relation, predictions: Relation, signature: Signature) -> tuple[Spec, ...]:
    """Finds edges in (a sample of) the rows of a first day. The relations have the columns by their names."""
    of_model = _edges(con, predictions, numeric_outputs(signature))
    edges = _edges(con, features, numbers(signature)) | of_model
    return specs_of(signature, edges)


def _edges(con: Connection, rows: Relation, names: Sequence[str]) -> dict[str, tuple[float, ...]]:
    from duckdb import ColumnExpression

    from pipeline.quality.tasks import best

    if not names:
        return {}
    types = database.schema(rows)
    values = (best(name) if types[name].endswith("[]") else ColumnExpression(name) for name in names)
    columns = [value.cast("FLOAT").alias(f"c{index}") for index, value in enumerate(values)]
    rows.select(*columns).create_view("profiled", replace=True)
    with database.explained("the rows of the first day"):
        sample = con.sql(queries.load("drift/sample")).to_arrow_table()
    found = {name: sample.column(f"c{index}").drop_null().to_numpy() for index, name in enumerate(names)}
    return {name: edges_of(each) for name, each in found.items()}
