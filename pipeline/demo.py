"""The data and the model of `lakescore demo`: synthetic customers, and a small model trained on them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import UsageError
from pipeline.ingest.generate import batches
from pipeline.job.project import DEFAULT_JOB
from pipeline.packaged import resources
from pipeline.settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from numpy.typing import NDArray

FEATURES = (
    "age",
    "income",
    "tenure_days",
    "num_purchases",
    "avg_transaction_value",
    "days_since_last_purchase",
)
TRAINING_DAY = "2025-12-31"
TRAINING_ROWS = 20_000
HIDDEN = 64
MARK = ".lakescore-demo"
"""File that says that a folder was made by the demo, which may remove it."""


def make_workspace(folder: Path, *, fresh: bool = False) -> Settings:
    """Creates a folder with the default job, for a lake and models, or returns to that of an earlier demo.

    `fresh` removes the earlier demo first. Raises UsageError for a folder with anything else.
    """
    there = folder.exists() and any(folder.iterdir())
    if there and not (folder / MARK).is_file():
        raise UsageError(
            "the folder is not empty, and not that of a demo", where=folder.absolute(), next_step="pass another: --dir"
        )
    if there and fresh:
        shutil.rmtree(folder)
        there = False
    if not there:
        shipped = resources() / "dags" / "jobs" / DEFAULT_JOB
        shutil.copytree(shipped, folder / "dags" / "jobs" / DEFAULT_JOB)
        (folder / MARK).touch()
    return Settings(lake=str(folder / "lake"), jobs=folder / "dags" / "jobs", models=str(folder / "models"))


def train(path: Path, seed: int = 0) -> float:
    """Trains a `SimpleClassifier` to predict who buys next, saves its checkpoint, and returns its accuracy on new rows.

    The labels are synthetic: they are drawn at random, with a probability that depends on the features. The training
    rows are saved beside the checkpoint, for the baseline, as `training_file` names them.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch

    torch.manual_seed(seed)
    rows = next(iter(batches(TRAINING_DAY, TRAINING_ROWS, seed)))
    pq.write_table(pa.table(rows), training_file(path))
    matrix, labels = _labelled(rows, seed)
    mean, deviation = matrix.mean(axis=0), matrix.std(axis=0)
    layers = [torch.nn.Linear(*shape) for shape in ((len(FEATURES), HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, 2))]
    network = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1], torch.nn.ReLU(), layers[2])
    _fit(network, torch.from_numpy((matrix - mean) / deviation), torch.from_numpy(labels))
    with torch.no_grad():  # fold the scaling into the first layer, so that the model takes unscaled features
        layers[0].weight /= torch.from_numpy(deviation)
        layers[0].bias.sub_(layers[0].weight @ torch.from_numpy(mean))
        fresh, truth = _labelled(next(iter(batches(TRAINING_DAY, TRAINING_ROWS, seed + 1))), seed + 1)
        accuracy = (network(torch.from_numpy(fresh)).argmax(1).numpy() == truth).mean()
    names = ("fc1", "fc2", "fc3")
    state = {
        f"{name}.{key}": value
        for name, layer in zip(names, layers, strict=True)
        for key, value in layer.state_dict().items()
    }
    torch.save(
        {
            "model_state_dict": state,
            "input_dim": len(FEATURES),
            "hidden_dim": HIDDEN,
            "output_dim": 2,
            "version": "demo",
        },
        path,
    )
    return float(accuracy)


def training_file(checkpoint: Path) -> Path:
    return checkpoint.with_name("training.parquet")


def _labelled(batch: pa.RecordBatch, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Returns features, float32 (rows, features), and labels, int64 (rows,).

    Label 1 is more likely for customers who buy recently and often, and with higher income and transaction value.
    """
    columns = [batch.column(name).to_numpy().astype(np.float32) for name in FEATURES]
    _, income, _, purchases, value, recency = columns
    score = 0.5 * (purchases - 5) - 0.05 * (recency - 20) + np.log(income / 60_000) + 0.5 * np.log(value / 55)
    drawn = np.random.default_rng(seed).random(len(score)) < 1 / (1 + np.exp(-score))
    return np.column_stack(columns), drawn.astype(np.int64)


def _fit(network: torch.nn.Module, matrix: torch.Tensor, labels: torch.Tensor) -> None:
    """Runs four epochs of Adam over batches of 512 rows, in one thread: the batches are too small to parallelize."""
    import torch

    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    torch.set_num_threads(1)
    for _ in range(4):
        for rows in torch.randperm(len(matrix)).split(512):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(matrix[rows]), labels[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
