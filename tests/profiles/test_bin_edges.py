"""The edges of many columns are found in the memory that those of a few hundred take, and are the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.database.connection import connect, read_parquet
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


@pytest.mark.slow
def test_the_edges_of_1200_columns_need_no_more_memory_than_those_of_500(tmp_path: Path) -> None:
    found, ordered = edges(tmp_path, 1200, "60MB")
    assert len(found) == 1200
    assert found["f1199"] == tuple(ordered[1199][[int(level * ROWS) for level in LEVELS]].tolist())
