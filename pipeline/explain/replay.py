"""Scores a stored input row again with the model that scored it, and says what each feature adds to the score."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import database, unscored
from pipeline.context import Context
from pipeline.drift import store
from pipeline.explain import shapley
from pipeline.explain.inputs import InputRow
from pipeline.features import to_matrix
from pipeline.job_tables import Precision
from pipeline.model import golden
from pipeline.model.manifest import Manifest
from pipeline.records import RunRecord

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection
    from numpy.typing import NDArray

    from pipeline.explain.history import Explained
    from pipeline.model.predictor import Predictor


@dataclass(frozen=True)
class Replay:
    outputs: dict[str, Any]
    """What the model gives now for the input row as it is now."""
    difference: float
    """The largest, of any number; infinite if a label or an item is another one."""
    tolerance: float
    same_input: bool
    """Whether the row is the one that was scored; if not, a difference is no wonder."""
    same_model: bool
    """Whether the registry has the model's digest still."""

    @property
    def reproduced(self) -> bool:
        return self.difference <= self.tolerance


@dataclass(frozen=True)
class Attribution:
    method: str
    target: str
    """The column that is explained."""
    baseline: str
    """Which row the baseline is."""
    baseline_features: dict[str, float]
    baseline_score: float
    score: float
    shares: dict[str, float]
    """Of each feature; they add up to `score - baseline_score`."""


class Models:
    """The models of a job's predictions, each loaded once."""

    def __init__(self, ctx: Context, con: Connection) -> None:
        self.ctx, self.con = ctx, con
        self._loaded: dict[tuple[str, str, Precision], tuple[Manifest, Predictor]] = {}

    def of(self, record: RunRecord) -> tuple[Manifest, Predictor]:
        """Gives the model in the precision of the run. Raises ModelNotFound or ModelMismatch."""
        precision: Precision = (record.job_config.get("engine") or {}).get("precision", "float32")
        ref = (record.model.name, record.model.version, precision)
        if ref not in self._loaded:
            job, manifest = self.ctx.job, self.ctx.registry.resolve(*ref[:2])
            predictor = self.ctx.registry.load(manifest, job.engine.device, job.model.trusted, precision=precision)
            self._loaded[ref] = manifest, predictor
        return self._loaded[ref]


def replay(models: Models, each: Explained) -> Replay | None:
    """Returns None if the input row or the run's record is gone. Raises ModelNotFound or ModelMismatch."""
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
    """Returns the largest difference of what are numbers; infinite if anything else differs, or is not there."""
    worst = 0.0
    for name, value in stored.items():
        if name in ("prediction", "top_items"):
            worst = max(worst, 0.0 if found.get(name) == value else np.inf)
        elif name not in found or np.shape(found[name]) != np.shape(value):
            worst = np.inf
        else:
            worst = max(worst, float(np.max(np.abs(np.subtract(found[name], value)))))
    return worst


def attribution(models: Models, each: Explained) -> Attribution | None:
    """Returns what each feature adds to the probability of the predicted class, or to the value.

    It is compared with an average row: the mean of the training data if the model was registered with its profile, else
    that of the day's rows. None for the other tasks, and for inputs that are no plain numbers: these have no average.
    """
    if each.record is None or each.input is None or each.input.features is None:
        return None
    manifest, predictor = models.of(each.record)
    names = manifest.signature.features
    if manifest.signature.inputs or manifest.signature.task not in ("classification", "regression"):
        return None
    baseline, which = _baseline(models, manifest, each.record)
    target = "value"
    if manifest.signature.task == "classification":
        target = f"prob_class_{manifest.signature.classes.index(each.outputs['prediction'])}"

    def score(matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.asarray(predictor.predict(matrix, 8192)[target], np.float64)

    row = _row(each.input, manifest)
    start = np.array([baseline[name] for name in names], np.float32)
    shares = shapley.shares(score, row, start)
    first, last = score(np.stack([start, row]))
    exact = len(names) <= shapley.EXACT
    return Attribution(
        method="exact Shapley values" if exact else f"Shapley values over {2 * shapley.ORDERS} drawn orders",
        target=target,
        baseline=which,
        baseline_features={name: float(value) for name, value in zip(names, start, strict=True)},
        baseline_score=float(first),
        score=float(last),
        shares=dict(zip(names, map(float, shares), strict=True)),
    )


def _row(found: InputRow, manifest: Manifest) -> NDArray[np.float32]:
    """Returns what the model sees of the row: (columns,)."""
    assert found.batch is not None
    row: NDArray[np.float32] = to_matrix(found.batch, manifest.signature.features, manifest.signature.inputs)[0]
    return row


def _baseline(models: Models, manifest: Manifest, record: RunRecord) -> tuple[dict[str, float], str]:
    """Returns the mean of each feature, and of which rows it is the mean."""
    ctx, names = models.ctx, manifest.signature.features
    if (means := _means(ctx.registry.baseline(manifest), names)) is not None:
        return means, f"mean of the training data of {manifest.name} {manifest.version}"
    if (means := _means(ctx.lake.storage.read(store.key("profiles", record)), names)) is not None:
        return means, f"mean of the rows of {record.ds}"
    return _scanned(models, record, names), f"mean of the input of {record.ds}"


def _means(content: bytes | None, names: tuple[str, ...]) -> dict[str, float] | None:
    """Reads a profile (docs/drift.md); returns None if it lacks a feature."""
    import pyarrow.parquet as pq

    if content is None:
        return None
    columns = ["slice_column", "kind", "column_name", "mean"]
    rows = pq.read_table(io.BytesIO(content), columns=columns, partitioning=None).to_pylist()
    found = {row["column_name"]: row["mean"] for row in rows if row["kind"] == "feature" and not row["slice_column"]}
    return {name: found[name] for name in names} if all(found.get(name) is not None for name in names) else None


def _scanned(models: Models, record: RunRecord, names: tuple[str, ...]) -> dict[str, float]:
    """Reads a day's input, as it is now, for the mean of its finite values; 0 where there is none."""
    from duckdb import CaseExpression, ColumnExpression, FunctionExpression

    with database.explained(record.ds):
        files = unscored.input_files(models.ctx, record.ds)
        source = unscored.rows(models.con, models.ctx, files, record.ds)
        means = []
        for name in names:
            value = ColumnExpression(name).cast("DOUBLE")
            finite = CaseExpression(FunctionExpression("isfinite", value), value)
            means.append(FunctionExpression("avg", finite).alias(name))
        row = source.aggregate(means).fetchall()[0]
    return {name: 0.0 if value is None else value for name, value in zip(names, row, strict=True)}
