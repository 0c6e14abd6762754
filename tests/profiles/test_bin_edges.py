"""The edges of many columns are found in the memory that those of a few hundred take, and are the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.database.connection import connect, read_parquet
from pipeline.job.config import Policy
from pipeline.model.manifest import Signature
from pipeline.profiles import bin_edges

ROWS = 100
LEVELS = (0.005, 0.025, *(step / 20 for step in range(1, 20)), 0.975, 0.995)


def edges(folder: Path, features: int, memory: str) -> tuple[dict[str, tuple[float, ...]], np.ndarray]:
    """Returns the edges of features that lie in a file, by name, and the values (features, rows) in order."""
    values = np.random.default_rng(features).normal(size=(features, ROWS)).astype(np.float32)
    names = [f"f{index}" for index in range(features)]
    pq.write_table(pa.table(dict(zip(names, values, strict=True))), folder / "features.parquet")
    scores = pa.table({name: np.linspace(0, 1, ROWS) for name in ("prob_class_0", "prob_class_1", "prediction_proba")})
    pq.write_table(scores, folder / "scores.parquet")
    signature = Signature(features=tuple(names), classes=(0, 1))
    with connect(memory, threads=2) as con:
        rows, predictions = (read_parquet(con, [folder / f"{name}.parquet"]) for name in ("features", "scores"))
        found = bin_edges.from_days(con, rows, predictions, signature)
    return {spec.name: spec.edges for spec in found if spec.kind == "feature"}, np.sort(values)


@pytest.mark.parametrize("at_once", [1, 3, 500])
def test_groups_of_columns_have_the_edges_of_each_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(bin_edges, "AT_ONCE", at_once)
    found, ordered = edges(tmp_path, 10, "100MB")
    places = [int(level * ROWS) for level in LEVELS]
    assert list(found.values()) == [tuple(each[places].tolist()) for each in ordered]


def test_edges_of_a_large_day_are_those_of_rows_that_a_policy_lets_through() -> None:
    batch = pa.record_batch({"a": pa.array([None, *range(1, ROWS)], pa.float64()), "b": np.ones(ROWS)})
    signature = Signature(features=("a", "b"), task="regression")
    seen: list[np.ndarray] = []

    def predict(matrix: np.ndarray) -> pa.RecordBatch:
        seen.append(matrix)
        return pa.record_batch({"value": matrix[:, 0]})

    sample = bin_edges.Sample(batch, signature, Policy())
    assert [(spec.name, spec.edges[:2]) for spec in sample.features] == [("a", (1.0, 3.0)), ("b", (1.0,))]
    ((name, low),) = [(spec.name, spec.edges[0]) for spec in sample.outputs(predict)]
    assert (name, low, len(seen[0])) == ("value", 1.0, ROWS - 1)
    assert not bin_edges.Sample(batch.slice(0, 1), signature, Policy()).outputs(predict)


def test_sample_of_a_large_day_is_scored_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bin_edges, "SCORED", 30)
    sample = bin_edges.Sample(
        pa.record_batch({"a": np.arange(ROWS)}), Signature(features=("a",), task="regression"), Policy()
    )
    seen: list[float] = []

    def predict(matrix: np.ndarray) -> pa.RecordBatch:
        seen.extend(matrix[:, 0].tolist())
        return pa.record_batch({"value": matrix[:, 0]})

    sample.outputs(predict)
    assert seen == list(range(0, ROWS, 4))


@pytest.mark.slow
def test_the_edges_of_1200_columns_need_no_more_memory_than_those_of_500(tmp_path: Path) -> None:
    found, ordered = edges(tmp_path, 1200, "60MB")
    assert len(found) == 1200
    assert found["f1199"] == tuple(ordered[1199][[int(level * ROWS) for level in LEVELS]].tolist())
