"""Scores the same rows with two model versions in one streaming pass, into files that SQL then queries."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from duckdb import ColumnExpression, FunctionExpression, StarExpression

from pipeline.columns import RESERVED
from pipeline.context import Context
from pipeline.database import sql_files
from pipeline.database.aligning import with_key_text
from pipeline.database.connection import column_types, connect, empty_relation, read_parquet, translated_errors
from pipeline.database.keys import feature_type
from pipeline.drift.true_labels import STORED
from pipeline.errors import InputMissing, ModelMismatch
from pipeline.model.matrix import to_matrix
from pipeline.model.schema_check import check_fit, check_nulls
from pipeline.profiles import store
from pipeline.selecting.input import input_rows, readable_input

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation
    from numpy.typing import NDArray

    from pipeline.model.manifest import Manifest, Signature
    from pipeline.model.predictor import Predictor

CARRIED = "carried:"
FEATURE = "feature:"
"""CARRIED and FEATURE are prefixes for the job's column names; no column of Lakescore begins with them."""


@dataclass(frozen=True)
class Compared:
    """A connection with the view `compared`, see sql/compare/compared.sql."""

    con: Connection
    rows: int
    skipped: int
    """Number of rows that one of the models cannot score, because a feature is NULL or infinite."""
    labelled: int
    """Number of rows that have a label."""
    columns: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Scoring:
    """How rows are scored: by both models."""

    ctx: Context
    models: Sequence[tuple[Manifest, Predictor]]
    target: str | None
    whole: bool
    """Whether all outputs are kept, to be compared with labels."""


@contextmanager
def compared(
    ctx: Context, first: Manifest, second: Manifest, target: str | None, days: Sequence[str], sample: int | None
) -> Iterator[Compared]:
    """Scores the rows of the days, or a sample with equal parts of each; `target` is that of `target_of`.

    The sample is the same every time. Raises InputMissing if both versions can score no row.
    """
    engine = ctx.job.engine
    models = [
        (manifest, ctx.registry.load(manifest, engine.device, ctx.job.model.trusted, precision=engine.precision))
        for manifest in (first, second)
    ]
    limits = ctx.resources(max(len(manifest.signature.features) for manifest in (first, second)))
    with (
        tempfile.TemporaryDirectory(prefix="lakescore-compare-") as folder,
        connect(limits.memory_limit, limits.threads) as con,
    ):
        ctx.lake.storage.attach(con)
        labels, notes = _label_files(ctx, con, days, STORED[first.signature.task])
        files = []
        counts = [0, 0]
        each = None if sample is None else -(-sample // len(days))
        for ds in days:
            path = Path(folder) / f"{ds}.parquet"
            with translated_errors(ds):
                how = _Scoring(ctx, models, target, whole=bool(labels))
                scored, skipped = _score_day(con, how, ds, each, path, counts[0])
            counts = [counts[0] + scored, counts[1] + skipped]
            files += [str(path)] if scored else []
        if not files:
            raise InputMissing("no row can be scored by both versions", where=", ".join(days))
        _in_one_order(read_parquet(con, files), first.signature).create_view("scored_by_both")
        labelled = _add_labels(ctx, con, labels, STORED[first.signature.task])
        yield Compared(con, counts[0], counts[1], labelled, tuple(con.view("compared").columns), tuple(notes))


def _score_day(con: Connection, how: _Scoring, ds: str, sample: int | None, path: Path, number: int) -> tuple[int, int]:
    """Writes the scored rows of a day; returns their number, and the number of rows that could not be scored."""
    ctx = how.ctx
    scored = skipped = 0
    writer: pq.ParquetWriter | None = None
    with ExitStack() as opened:
        source = input_rows(con, ctx, opened.enter_context(readable_input(ctx, ds)), ds)
        rows = _chosen(ctx, source, [manifest for manifest, _ in how.models], sample)
        reader = opened.enter_context(rows.to_arrow_reader(ctx.batch_rows(len(rows.columns))))
        for batch in reader:
            table, dropped = _scored(how, batch, ds, number + scored)
            scored, skipped = scored + table.num_rows, skipped + dropped
            writer = writer or opened.enter_context(pq.ParquetWriter(path, table.schema, compression="zstd"))
            writer.write_table(table)
            ctx.progress("compare", scored + skipped, 0)
    return scored, skipped


def _chosen(ctx: Context, source: Relation, manifests: Sequence[Manifest], sample: int | None) -> Relation:
    types = column_types(source)
    for manifest in manifests:
        check_fit(manifest, None, types, f"{manifest.name} {manifest.version}")
        check_nulls(manifest, ctx.job.policy.null_features, ctx.job.folder / "job.toml")
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


def _scored(how: _Scoring, batch: pa.RecordBatch, ds: str, number: int) -> tuple[pa.Table, int]:
    """Adds the decisions and scores of both models; returns the table, and the number of rows that were dropped.

    `number` is the number of the first row.
    """
    from pipeline.model.predictor import SLICE_ROWS

    matrices = [_matrix(batch, manifest.signature) for manifest, _ in how.models]
    valid = np.logical_and(*(_scorable(how.ctx, matrix) for matrix in matrices))
    kept = batch.filter(pa.array(valid))
    rows = kept.num_rows
    columns: dict[str, Any] = {"ds": pa.repeat(pa.scalar(ds), rows), "row": np.arange(number, number + rows)}
    for name, (manifest, predictor), matrix in zip("ab", how.models, matrices, strict=True):
        found = predictor.predict_arrow(matrix[valid], how.ctx.job.engine.batch_rows or SLICE_ROWS)
        columns |= {
            f"{kind}_{name}": values for kind, values in _outputs(found, manifest.signature, how.target).items()
        }
        if how.whole:
            columns[f"outputs_{name}"] = pa.StructArray.from_arrays(found.columns, fields=list(found.schema))
    return pa.table({**columns, **{name: kept.column(name) for name in kept.schema.names}}), batch.num_rows - rows


def _outputs(found: pa.RecordBatch, signature: Signature, target: str | None) -> dict[str, pa.Array]:
    """Returns decision and score, and the items of a ranking; a regression decides nothing, a ranking has no score."""
    none = pa.nulls(found.num_rows, pa.float32())
    classes = [str(label) for label in signature.classes]
    match signature.task:
        case "classification":
            score = found.column(f"prob_class_{classes.index(target or '')}")
            return {"prediction": found.column("prediction").cast(pa.string()), "score": score}
        case "multilabel":
            score = found.column(f"prob_class_{classes.index(target or '')}")
            return {"prediction": found.column("prediction").cast(pa.list_(pa.string())), "score": score}
        case "regression":
            return {"prediction": pa.nulls(found.num_rows, pa.string()), "score": found.column("value")}
        case "ranking":
            items = found.column("top_items").cast(pa.list_(pa.string()))
            return {"prediction": pc.list_element(items, 0), "score": none, "items": items}
        case _:
            assert_never(signature.task)


def _in_one_order(rows: Relation, signature: Signature) -> Relation:
    """Returns the rows with sorted labels: two multi-label models may have them in another order."""
    if signature.task != "multilabel":
        return rows
    names = ["prediction_a", "prediction_b"]
    ordered = (FunctionExpression("list_sort", ColumnExpression(name)).alias(name) for name in names)
    return rows.select(StarExpression(exclude=names), *ordered)


def _matrix(batch: pa.RecordBatch, signature: Signature) -> NDArray[np.float32]:
    inputs = {FEATURE + name: how for name, how in signature.inputs.items()}
    return to_matrix(batch, [FEATURE + name for name in signature.features], inputs)


def _scorable(ctx: Context, matrix: NDArray[np.float32]) -> NDArray[np.bool_]:
    bad = np.isinf(matrix) if ctx.job.policy.null_features == "score" else ~np.isfinite(matrix)
    return np.asarray(~bad.any(axis=1))


def _label_files(ctx: Context, con: Connection, days: Sequence[str], column: str) -> tuple[list[str], list[str]]:
    """Returns the files of the days' labels, and what is to be said of days whose labels are of another task."""
    found, notes = [], []
    for ds in days:
        files = [file.path for file in ctx.lake.storage.files(store.labels_folder(ctx.job.name, ds))]
        paths = [ctx.lake.storage.where(path) for path in files if path.endswith(".parquet")]
        with translated_errors(ds, paths):
            usable = [path for path in paths if column in read_parquet(con, [path]).columns]
        found += usable
        if len(usable) < len(paths):
            notes.append(f"the labels of {ds} were imported for a model of another task, and are left out")
    return found, notes


def _add_labels(ctx: Context, con: Connection, paths: Sequence[str], column: str) -> int:
    """Creates the view `compared` with imported labels (docs/drift.md); returns the number of rows that have one."""
    if paths:
        ours = (*STORED.values(), "job", "ds", "filename")
        rows = read_parquet(con, paths, folders=("job", "ds"), filename="filename")
        labels = with_key_text(rows, ctx.job.input.key, ours)
        labels.select("ds", "key_text", ColumnExpression(column).alias("label"), "filename").create_view("labels")
    else:
        empty = {"ds": "VARCHAR", "key_text": "VARCHAR", "label": "VARCHAR", "filename": "VARCHAR"}
        empty_relation(con, empty).create_view("labels")
    con.sql(sql_files.load("compare/compared")).create_view("compared")
    return int(con.view("compared").aggregate("count(label)").fetchall()[0][0]) if paths else 0


def target_of(first: Manifest, second: Manifest, wanted: str | None) -> str | None:
    """Returns the class or label whose probability is compared: `wanted`, or by default the first version's last one.

    Returns None for a regression or a ranking. Raises ModelMismatch if the versions have different tasks, if one of
    them lacks the class, or if their task has no classes.
    """
    tasks = [manifest.signature.task for manifest in (first, second)]
    if tasks[0] != tasks[1]:
        raise ModelMismatch(
            "versions of different tasks cannot be compared",
            got=", ".join(f"{each.version}: {each.signature.task}" for each in (first, second)),
        )
    if tasks[0] in ("regression", "ranking"):
        if wanted is not None:
            raise ModelMismatch(f"a {tasks[0]} has no classes", got=f"--class {wanted}", next_step="leave out --class")
        return None
    classes = [[str(label) for label in manifest.signature.classes] for manifest in (first, second)]
    target = wanted or classes[0][-1]
    if any(target not in each for each in classes):
        raise ModelMismatch(
            f"the versions do not both have the class {target!r}",
            expected="a class that both have",
            got="; ".join(f"{m.version}: {', '.join(c)}" for m, c in zip((first, second), classes, strict=True)),
            next_step=_comparable(first, second, classes),
        )
    return target


def _comparable(first: Manifest, second: Manifest, classes: Sequence[Sequence[str]]) -> str:
    """Returns how two versions that do not both have a class can be compared nevertheless."""
    if common := [label for label in classes[0] if label in classes[1]]:
        return f"lakescore compare {first.version} {second.version} --class {shlex.quote(common[-1])}"
    listed = shlex.quote(",".join(classes[0]))
    return (
        f"no class in common: if they mean the same, register {second.version} again, as a new version, with "
        f"--classes {listed} in the order of its outputs"
    )
