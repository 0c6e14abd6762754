"""Made-up flights, scored by a model of each kind: scores are the library's own, and labels measure all of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from tests.calling import Cli

DAY, TRAINING, ROWS = "2026-03-30", 3000, 2000
CARRIERS = ["AF", "BA", "KL", "LH"]
JOB = '[model]\nname = "{kind}"\n\n[input]\npath = "unscored/ds={{ds}}/*.parquet"\nkey = ["flight"]\n'
NUMBERS = ["distance", "hour", "before"]

Predict = Callable[[pd.DataFrame], Any]
"""Returns the probability of a late arrival, as the model's own library computes it."""


def flights(rows: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    found = pd.DataFrame(
        {
            "flight": [f"f{seed}-{number}" for number in range(rows)],
            "distance": rng.integers(200, 2000, rows).astype(np.float32),
            "hour": rng.integers(5, 23, rows).astype(np.float32),
            "before": np.round(rng.exponential(20, rows), 1).astype(np.float32),
            "carrier": rng.choice(CARRIERS, rows),
        }
    )
    risk = found["before"] / 20 + (found["hour"] - 14) / 6 + (found["carrier"] == "AF") - found["distance"] / 1500
    return found.assign(late=(risk + rng.normal(0, 0.7, rows) > 0.6).astype(int))


def with_categories(table: pd.DataFrame) -> pd.DataFrame:
    return table[[*NUMBERS, "carrier"]].astype({"carrier": pd.CategoricalDtype(CARRIERS)})


def train_torch(table: pd.DataFrame, path: Path) -> Predict:
    torch.manual_seed(1)
    values = torch.tensor(table[NUMBERS].to_numpy(np.float32))
    mean, std = values.mean(0), values.std(0)
    first = nn.Linear(3, 16)
    network = nn.Sequential(first, nn.ReLU(), nn.Linear(16, 2))
    optimizer = torch.optim.Adam(network.parameters(), 0.03)
    labels = torch.tensor(table["late"].to_numpy())
    for _ in range(80):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network((values - mean) / std), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():  # the network takes the numbers as they come
        first.bias.sub_(first.weight @ (mean / std))
        first.weight.div_(std)
    torch.save({"state_dict": network.state_dict(), "features": NUMBERS}, path)

    def predict(rows: pd.DataFrame) -> Any:
        with torch.inference_mode():
            return torch.softmax(network(torch.tensor(rows[NUMBERS].to_numpy(np.float32))), 1)[:, 1].numpy()

    return predict


def train_onnx(table: pd.DataFrame, path: Path) -> Predict:
    from skl2onnx import to_onnx
    from sklearn.ensemble import RandomForestClassifier

    numbers = table[NUMBERS].to_numpy(np.float32)
    forest = RandomForestClassifier(30, max_depth=6, random_state=0).fit(numbers, table["late"])
    path.write_bytes(to_onnx(forest, numbers[:1]).SerializeToString())
    return lambda rows: forest.predict_proba(rows[NUMBERS].to_numpy(np.float32))[:, 1]


def train_xgboost(table: pd.DataFrame, path: Path) -> Predict:
    import xgboost

    def matrix(rows: pd.DataFrame) -> xgboost.DMatrix:
        return xgboost.DMatrix(with_categories(rows), rows["late"], enable_categorical=True)

    trees = xgboost.train({"objective": "binary:logistic", "max_depth": 4}, matrix(table), 30)
    trees.save_model(path)
    return lambda rows: trees.predict(matrix(rows))


def train_lightgbm(table: pd.DataFrame, path: Path) -> Predict:
    import lightgbm

    data = lightgbm.Dataset(with_categories(table), table["late"])
    trees = lightgbm.train({"objective": "binary", "verbose": -1, "num_threads": 1}, data, 30)
    trees.save_model(path)
    return lambda rows: trees.predict(with_categories(rows))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # skl2onnx warns about its own code
def test_each_kind_scores_the_same_flights_as_its_library_and_is_measured(cli: Cli, tmp_path: Path) -> None:
    training, today = flights(TRAINING, 1), flights(ROWS, 2)
    (tmp_path / f"lake/unscored/ds={DAY}").mkdir(parents=True)
    columns = today.drop(columns="late")
    pq.write_table(pa.Table.from_pandas(columns, preserve_index=False), tmp_path / f"lake/unscored/ds={DAY}/a.parquet")
    today[["flight", "late"]].to_csv(tmp_path / "labels.csv", index=False)
    areas = {}
    kinds: dict[str, tuple[str, Callable[[pd.DataFrame, Path], Predict], tuple[str, ...]]] = {
        "torch": ("m.pt", train_torch, ("--architecture", "mlp:relu")),
        "onnx": ("m.onnx", train_onnx, ("--features", ",".join(NUMBERS))),
        "xgboost": ("m.ubj", train_xgboost, ()),
        "lightgbm": ("m.txt", train_lightgbm, ()),
    }
    for kind, (file, train, options) in kinds.items():
        path = tmp_path / file
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            predict = train(training, path)
        (tmp_path / "dags" / "jobs" / kind).mkdir(parents=True)
        (tmp_path / "dags" / "jobs" / kind / "job.toml").write_text(JOB.format(kind=kind))
        cli("models", "register", file, "--name", kind, "--version", "v1", "--alias", "production", *options)
        cli("run", "--job", kind, "--date", DAY)
        cli("labels", "import", "labels.csv", "--job", kind, "--date", DAY, "--label", "late")
        found = pa.Table.from_batches(stored(tmp_path, kind)).sort_by("flight")
        expected = predict(today.sort_values("flight"))
        np.testing.assert_allclose(found["prob_class_1"].to_numpy(), expected, rtol=1e-6, atol=1e-6)
        areas[kind] = measured(tmp_path, kind)
        known = today.set_index("flight")["late"][found["flight"].to_pylist()]
        assert areas[kind] == pytest.approx(roc_auc_score(known, found["prob_class_1"].to_numpy()), abs=1e-9)
    assert min(areas.values()) > 0.85, areas
    assert max(areas.values()) - min(areas.values()) < 0.08, areas


def stored(root: Path, job: str) -> list[pa.RecordBatch]:
    from pipeline import Lake

    found = Lake.open(root / "lake", job=job).predictions(DAY, columns=["flight", "prob_class_1"])
    return found.to_batches()


def measured(root: Path, job: str) -> float:
    from pipeline import Lake

    rows = Lake.open(root / "lake", job=job).query(
        "SELECT auc FROM performance WHERE job = $job AND class = '1'", {"job": job}
    )
    (area,) = rows.column("auc").to_pylist()
    return float(area)
