"""Scores an input row again with the model that scored it, and computes what each feature adds to the score."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline.context import Context
from pipeline.database.connection import translated_errors
from pipeline.explain import explained_score, shapley
from pipeline.explain.found import Attribution, FoundPrediction, InputRow, Replay
from pipeline.job.config import Precision
from pipeline.model import golden
from pipeline.model.manifest import Manifest
from pipeline.model.matrix import to_matrix
from pipeline.profiles import store
from pipeline.records import RunRecord
from pipeline.selecting.input import input_rows, readable_input

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection
    from numpy.typing import NDArray

    from pipeline.explain.found import FoundPrediction
    from pipeline.model.predictor import Predictor


class NoAttribution(Exception):
    """Says why a prediction has no attribution."""


class Models:
    """The models of a job's predictions, each loaded once."""

    def __init__(self, ctx: Context, con: Connection) -> None:
        self.ctx, self.con = ctx, con
        self._loaded: dict[tuple[str, str, Precision], tuple[Manifest, Predictor]] = {}

    def of(self, record: RunRecord) -> tuple[Manifest, Predictor]:
        """Returns the model in the precision of the run. Raises ModelNotFound or ModelMismatch."""
        precision: Precision = (record.job_config.get("engine") or {}).get("precision", "float32")
        ref = (record.model.name, record.model.version, precision)
        if ref not in self._loaded:
            job, manifest = self.ctx.job, self.ctx.registry.resolve(*ref[:2])
            predictor = self.ctx.registry.load(manifest, job.engine.device, job.model.trusted, precision=precision)
            self._loaded[ref] = manifest, predictor
        return self._loaded[ref]


def replay(models: Models, each: FoundPrediction) -> Replay | None:
    """Scores the input row again; None if it or the run record is gone. Raises ModelNotFound or ModelMismatch."""
    if each.record is None or each.input is None or each.input.features is None:
        return None
    manifest, predictor = models.of(each.record)
    found = predictor.predict(_row(each.input, manifest)[None, :], 1)
    outputs = {name: _plain(values[0]) for name, values in found.items()}
    return Replay(
        outputs=outputs,
        difference=_difference(outputs, each.outputs),
        tolerance=golden.tolerance(predictor),
        same_input=bool(each.input.same),
        same_model=manifest.digest == each.model_digest,
    )


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def _difference(found: dict[str, Any], stored: dict[str, Any]) -> float:
    """Returns the largest absolute difference of numbers; infinite if another value differs or one is missing."""
    worst = 0.0
    for name, value in stored.items():
        if name in ("prediction", "top_items"):
            worst = max(worst, 0.0 if found.get(name) == value else np.inf)
        elif name not in found or np.shape(found[name]) != np.shape(value):
            worst = np.inf
        else:
            worst = max(worst, float(np.max(np.abs(np.subtract(found[name], value)))))
    return worst


def attribution(models: Models, each: FoundPrediction) -> Attribution | None:
    """Returns what each feature adds to the number of `explained_score.of_prediction`.

    The row is compared with an average row: the mean of the training data if the model was registered with its profile,
    else the mean of the day's rows; both are scaled as the signature declares. Returns None if the input row is gone.
    Raises NoAttribution for inputs that are not numbers, which have no average.
    """
    if each.record is None or each.input is None or each.input.features is None:
        return None
    manifest, predictor = models.of(each.record)
    names = manifest.signature.features
    if others := [name for name, how in manifest.signature.inputs.items() if how.kind != "number"]:
        raise NoAttribution(f"{', '.join(others)} are no numbers, and have no mean to compare with")
    baseline, which = _baseline(models, manifest, each.record)
    target, score = explained_score.of_prediction(predictor, manifest.signature, each.outputs)
    row = _row(each.input, manifest)
    start = to_matrix(pa.record_batch({name: [baseline[name]] for name in names}), names, manifest.signature.inputs)[0]
    shares = shapley.shares(score, row, start)
    first, last = score(np.stack([start, row]))
    exact = len(names) <= shapley.EXACT
    return Attribution(
        method="exact Shapley values" if exact else f"Shapley values over {2 * shapley.ORDERS} drawn orders",
        target=target,
        baseline=which,
        baseline_features={name: float(baseline[name]) for name in names},
        baseline_score=float(first),
        score=float(last),
        shares=dict(zip(names, map(float, shares), strict=True)),
    )


def _row(found: InputRow, manifest: Manifest) -> NDArray[np.float32]:
    """Returns the row as the model sees it: (columns,)."""
    assert found.batch is not None
    row: NDArray[np.float32] = to_matrix(found.batch, manifest.signature.features, manifest.signature.inputs)[0]
    return row


def _baseline(models: Models, manifest: Manifest, record: RunRecord) -> tuple[dict[str, float], str]:
    """Returns the mean of each feature, and a text that says of which rows."""
    ctx, names = models.ctx, manifest.signature.features
    if (means := _means(ctx.registry.baseline(manifest), names)) is not None:
        return means, f"mean of the training data of {manifest.name} {manifest.version}"
    if (means := _means(ctx.lake.storage.read(store.key("profiles", record)), names)) is not None:
        return means, f"mean of the rows of {record.ds}"
    return _scanned(models, record, names), f"mean of the input of {record.ds}"


def _means(content: bytes | None, names: tuple[str, ...]) -> dict[str, float] | None:
    """Returns the mean of each feature from a profile (docs/drift.md), or None if one is missing."""
    import pyarrow.parquet as pq

    if content is None:
        return None
    columns = ["slice_column", "kind", "column_name", "mean"]
    rows = pq.read_table(io.BytesIO(content), columns=columns, partitioning=None).to_pylist()
    found = {row["column_name"]: row["mean"] for row in rows if row["kind"] == "feature" and not row["slice_column"]}
    return {name: found[name] for name in names} if all(found.get(name) is not None for name in names) else None


def _scanned(models: Models, record: RunRecord, names: tuple[str, ...]) -> dict[str, float]:
    """Returns the mean of each feature's finite values in a day's input as it is now; 0 if there are none."""
    from duckdb import CaseExpression, ColumnExpression, FunctionExpression

    with translated_errors(record.ds), readable_input(models.ctx, record.ds) as files:
        source = input_rows(models.con, models.ctx, files, record.ds)
        means = []
        for name in names:
            value = ColumnExpression(name).cast("DOUBLE")
            finite = CaseExpression(FunctionExpression("isfinite", value), value)
            means.append(FunctionExpression("avg", finite).alias(name))
        row = source.aggregate(means).fetchall()[0]
    return {name: 0.0 if value is None else value for name, value in zip(names, row, strict=True)}
