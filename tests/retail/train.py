"""Trains a purchase model on the Online Retail features: `python -m tests.retail.train FEATURES CHECKPOINT`.

A checkpoint is a stack of linear layers with ReLU between, and takes the features as they are: neither a logarithm
nor a clip can stand before it, and `avg_transaction_value` runs from 0.85 to 84,236. The first layer does the work of
both, and is not trained: its units are `relu(1 - x / knot)`, with knots in geometric steps. Each is between 0 and 1
and flat above its knot, and a weighted sum of them follows a logarithm, or whatever curve suits better.

Data: D. Chen, S. L. Sain and K. Guo (2012), Online Retail, UCI Machine Learning Repository (CC0).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

import duckdb
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

FEATURES = ("tenure_days", "num_purchases", "avg_transaction_value", "days_since_last_purchase")
LABEL = "buys_30d"
EARLY, LATE = ("2011-03-01", "2011-04-30"), ("2011-05-01", "2011-05-31")
"""First and last days. The loss of an early model on the late days tells how many epochs the model of all days gets."""

KNOTS, HIDDEN = 16, 64
BATCH_ROWS, LEARNING_RATE, MOST_EPOCHS = 2048, 3e-3, 8

Rows = tuple[Tensor, Tensor]
"""Features, float32 (rows, 4), and labels, int64 (rows,)."""


def train(features: Path, checkpoint: Path) -> None:
    """Reads the daily features and writes a checkpoint. One thread, one seed: the same weights again."""
    torch.set_num_threads(1)
    early, late, whole = (read(features, *days) for days in (EARLY, LATE, (EARLY[0], LATE[1])))
    losses = [loss(model, late) for model in islice(epochs(early), MOST_EPOCHS)]
    best = losses.index(min(losses))
    model = next(islice(epochs(whole), best, None))
    document = {
        "model_state_dict": model.state_dict(),
        "input_dim": len(FEATURES),
        "hidden_dim": HIDDEN,
        "output_dim": 2,
        "features": FEATURES,
        "version": f"online-retail, {best + 1} epochs",
    }
    torch.save(document, checkpoint)


def read(features: Path, first: str, last: str) -> Rows:
    """Returns the labelled rows of the days from `first` to `last`, in one order."""
    query = f"""
        SELECT {", ".join(FEATURES)}, {LABEL} FROM read_parquet($path)
        WHERE as_of BETWEEN $first AND $last AND {LABEL} IS NOT NULL
        ORDER BY as_of, customer_id
    """
    with duckdb.connect() as con:
        found = con.sql(query, params={"path": str(features), "first": first, "last": last}).fetchnumpy()
    matrix = np.column_stack([found[name] for name in FEATURES]).astype(np.float32)
    return torch.from_numpy(matrix), torch.from_numpy(found[LABEL].astype(np.int64))


def epochs(rows: Rows) -> Iterator[nn.Sequential]:
    """Yields one model, trained for one more epoch each time."""
    torch.manual_seed(0)
    features, labels = rows
    first = hinges(features)
    head = nn.Sequential(nn.Linear(first.out_features, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2))
    with torch.no_grad():
        hidden = torch.relu(first(features))  # (rows, 4 * KNOTS)
    optimizer = torch.optim.Adam(head.parameters(), LEARNING_RATE)
    for _ in count():
        order = torch.randperm(len(labels))
        for start in range(0, len(labels), BATCH_ROWS):
            batch = order[start : start + BATCH_ROWS]
            optimizer.zero_grad()
            cross_entropy(head(hidden[batch]), labels[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        yield nn.Sequential(first, nn.ReLU(), *head)


def hinges(features: Tensor) -> nn.Linear:
    """Returns the first layer: KNOTS units a feature, each `1 - x / knot`."""
    low, high = np.quantile(features.numpy(), [0.01, 0.999], axis=0)
    knots = np.geomspace(low, high, KNOTS, axis=1)[:, :, None]  # (4, KNOTS, 1)
    slopes = -np.eye(len(knots))[:, None, :] / knots  # (4, KNOTS, 4)
    layer = nn.Linear(len(knots), knots.size)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(slopes.reshape(knots.size, -1)))
        layer.bias.fill_(1.0)
    return layer


def loss(model: nn.Module, rows: Rows) -> float:
    features, labels = rows
    with torch.inference_mode():
        return float(cross_entropy(model(features), labels))


if __name__ == "__main__":
    train(Path(sys.argv[1]), Path(sys.argv[2]))
