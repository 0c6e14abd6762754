"""The profile of training rows, and what of them counts."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.api.scorer import Scorer
from pipeline.model.registry import Registry
from pipeline.tabular import sources
from tests.workspace import Workspace

ROWS, MISSING = 8_000, 1_000


@pytest.fixture
def training(tmp_path: Path) -> Path:
    """Rows of which some lack a feature."""
    values = np.random.default_rng(5).normal(size=(2, ROWS))
    table = pa.table({"a": values[0], "b": pa.array(values[1], mask=np.arange(ROWS) < MISSING)})
    pq.write_table(table, tmp_path / "training.parquet")
    return tmp_path / "training.parquet"


def register(workspace: Workspace, training: Path) -> list[dict[str, Any]]:
    """Registers a model with a baseline; returns the baseline."""
    checkpoint = workspace.model("unused")
    registry = Registry(Path(workspace.settings.models))
    registry.register(checkpoint, name="toy", version="v2", features=("a", "b"), training=sources.find([training]))
    with duckdb.connect() as con:
        rows: list[dict[str, Any]] = (
            con.read_parquet(str(registry.root / "toy" / "v2" / "baseline.parquet")).to_arrow_table().to_pylist()
        )
    return rows


def test_rows_without_a_prediction_count_with_their_features_alone(
    workspace: Workspace, training: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A run puts them into quarantine: if they counted as class 0, each day would differ from the training data."""
    with caplog.at_level(logging.WARNING):
        found = {row["column_name"]: row for row in register(workspace, training)}
    assert "1,000 of 8,000 training rows have no prediction" in caplog.text
    assert (found["b"]["rows"], found["b"]["nulls"], found["a"]["rows"]) == (ROWS, MISSING, ROWS)
    with duckdb.connect() as con:
        scored = con.read_parquet(str(training)).filter("b IS NOT NULL").to_arrow_table()
    predicted = Scorer.load("toy", "v2", models=workspace.settings.models).score(scored)
    classes = np.bincount(np.asarray(predicted.column("prediction").to_pylist(), int), minlength=2)
    assert found["prediction"]["counts"] == classes.tolist()
    for name in ("prob_class_1", "prediction_proba"):
        assert (found[name]["rows"], found[name]["nans"]) == (ROWS - MISSING, 0)
        assert found[name]["mean"] == pytest.approx(np.mean(predicted.column(name)), rel=1e-5)
