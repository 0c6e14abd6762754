"""Scores the same rows with two model versions, in one streaming pass, into a file that SQL then asks."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from duckdb import ColumnExpression, FunctionExpression

from pipeline import database, queries, unscored
from pipeline.context import Context
from pipeline.errors import InputMissing, ModelMismatch
from pipeline.features import to_matrix
from pipeline.keys import feature_type
from pipeline.model.fit import check_fit
from pipeline.relations import with_key_text
from pipeline.reserved import RESERVED

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation
    from numpy.typing import NDArray

    from pipeline.model.manifest import Manifest, Signature
    from pipeline.model.predictor import Predictor

BATCH_ROWS = 122_880
CARRIED = "carried:"
FEATURE = "feature:"
"""Before the name of a column of the job, so that none can be taken for one of ours."""


@dataclass(frozen=True)
class Compared:
    """A connection with the view `compared`; sql/compare says what its columns are."""

    con: Connection
    rows: int
    skipped: int
    """Rows that a model cannot score: a feature is NULL or infinite."""
    labelled: int
    columns: tuple[str, ...]


@contextmanager
def compared(
    ctx: Context, first: Manifest, second: Manifest, target: str, days: Sequence[str], sample: int | None
) -> Iterator[Compared]:
    """Scores the rows of the days, or of each an equal part of a sample; the score is the probability of `target`.

    The sample is the same every time. Raises InputMissing if there is no row that both can score.
    """
    engine = ctx.job.engine
    models = [
        (manifest, ctx.registry.load(manifest, engine.device, ctx.job.model.trusted, precision=engine.precision))
        for manifest in (first, second)
    ]
    with (
        tempfile.TemporaryDirectory(prefix="lakescore-compare-") as folder,
        database.connection(engine.memory_limit, engine.threads) as con,
    ):
        ctx.lake.storage.attach(con)
        files = []
        counts = [0, 0]
        each = None if sample is None else -(-sample // len(days))
        for ds in days:
            path = Path(folder) / f"{ds}.parquet"
            with database.explained(ds):
                scored, skipped = _score_day(ctx, con, models, target, ds, each, path, counts[0])
            counts = [counts[0] + scored, counts[1] + skipped]
            files += [str(path)] if scored else []
        if not files:
            raise InputMissing("there is no row that both versions can score", where=", ".join(days))
        database.parquet(con, files).create_view("scored_by_both")
        labelled = _add_labels(ctx, con, days)
        yield Compared(con, counts[0], counts[1], labelled, tuple(con.view("compared").columns))


def _score_day(  # noqa: PLR0917 - what a day is scored with
    ctx: Context,
    con: Connection,
    models: Sequence[tuple[Manifest, Predictor]],
    target: str,
    ds: str,
    sample: int | None,
    path: Path,
    number: int,
) -> tuple[int, int]:
    """Writes the scored rows of a day; returns how many there are, and how many could not be scored."""
    files = unscored.input_files(ctx, ds)
    source = unscored.rows(con, ctx, files, ds)
    rows = _chosen(ctx, source, [manifest for manifest, _ in models], sample)
    scored = skipped = 0
    writer: pq.ParquetWriter | None = None
    with rows.to_arrow_reader(BATCH_ROWS) as reader:
        for batch in reader:
            table, dropped = _scored(ctx, batch, models, target, ds, number + scored)
            scored, skipped = scored + table.num_rows, skipped + dropped
            writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
            writer.write_table(table)
            ctx.progress("compare", scored + skipped, 0)
    if writer is not None:
        writer.close()
    return scored, skipped


def _chosen(ctx: Context, source: Relation, manifests: Sequence[Manifest], sample: int | None) -> Relation:
    types = database.schema(source)
    for manifest in manifests:
        check_fit(manifest, None, types, f"{manifest.name} {manifest.version}")
    features = dict.fromkeys(name for manifest in manifests for name in manifest.signature.features)
    carried = [name for name in ctx.job.input.carry if name in types]
    keyed = with_key_text(source, ctx.job.input.key, RESERVED)
    columns = [ColumnExpression("key_text")]
    columns += [ColumnExpression(name).cast("VARCHAR").alias(CARRIED + name) for name in carried]
    columns += [ColumnExpression(name).cast(feature_type(types[name])).alias(FEATURE + name) for name in features]
    rows = keyed.select(*columns)
    if sample is None:
        return rows
    return rows.sort(FunctionExpression("hash", ColumnExpression("key_text"))).limit(sample)


def _scored(
    ctx: Context, batch: pa.RecordBatch, models: Sequence[tuple[Manifest, Predictor]], target: str, ds: str, number: int
) -> tuple[pa.Table, int]:
    """Adds what both models give; `number` is that of the first row."""
    from pipeline.model.predictor import SLICE_ROWS

    matrices = [_matrix(batch, manifest.signature) for manifest, _ in models]
    valid = np.logical_and(*(_scorable(ctx, matrix) for matrix in matrices))
    kept = batch.filter(pa.array(valid))
    rows = kept.num_rows
    columns: dict[str, Any] = {"ds": pa.repeat(pa.scalar(ds), rows), "row": np.arange(number, number + rows)}
    for name, (manifest, predictor), matrix in zip("ab", models, matrices, strict=True):
        found = predictor.predict_arrow(matrix[valid], ctx.job.engine.batch_rows or SLICE_ROWS)
        classes = [str(label) for label in manifest.signature.classes]
        columns[f"prediction_{name}"] = found.column("prediction").cast(pa.string())
        columns[f"score_{name}"] = found.column(f"prob_class_{classes.index(target)}")
    return pa.table({**columns, **{name: kept.column(name) for name in kept.schema.names}}), batch.num_rows - rows


def _matrix(batch: pa.RecordBatch, signature: Signature) -> NDArray[np.float32]:
    inputs = {FEATURE + name: how for name, how in signature.inputs.items()}
    return to_matrix(batch, [FEATURE + name for name in signature.features], inputs)


def _scorable(ctx: Context, matrix: NDArray[np.float32]) -> NDArray[np.bool_]:
    bad = np.isinf(matrix) if ctx.job.policy.null_features == "score" else ~np.isfinite(matrix)
    return np.asarray(~bad.any(axis=1))


def _add_labels(ctx: Context, con: Connection, days: Sequence[str]) -> int:
    """Makes the view `compared`, with the labels that were imported (docs/drift.md); returns how many rows have one."""
    files = [file.path for ds in days for file in ctx.lake.storage.files(f"labels/job={ctx.job.name}/ds={ds}")]
    paths = [ctx.lake.storage.where(path) for path in files if path.endswith(".parquet")]
    if paths:
        labels = with_key_text(database.parquet(con, paths), ctx.job.input.key, ("label", "job", "ds"))
        labels.select("ds", "key_text", "label").create_view("labels")
    else:
        database.empty(con, {"ds": "VARCHAR", "key_text": "VARCHAR", "label": "VARCHAR"}).create_view("labels")
    con.sql(queries.load("compare/compared")).create_view("compared")
    return int(con.view("compared").aggregate("count(label)").fetchall()[0][0]) if paths else 0


def target_of(first: Manifest, second: Manifest, wanted: str | None) -> str:
    """Returns the class whose probability is compared: the one wanted, or the first version's last one.

    Raises ModelMismatch if the versions do not both have it.
    """
    if others := [manifest for manifest in (first, second) if manifest.signature.task != "classification"]:
        raise ModelMismatch(
            "only classifications can be compared",
            got=", ".join(f"{manifest.version} is a {manifest.signature.task}" for manifest in others),
            next_step="run both over a day, and join predictions_by_version with itself",
        )
    classes = [[str(label) for label in manifest.signature.classes] for manifest in (first, second)]
    target = wanted or classes[0][-1]
    if any(target not in each for each in classes):
        raise ModelMismatch(
            f"the versions do not both have the class {target!r}",
            expected="a class of both",
            got="; ".join(f"{m.version}: {', '.join(c)}" for m, c in zip((first, second), classes, strict=True)),
            next_step="name a class that both have: --class",
        )
    return target
