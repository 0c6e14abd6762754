"""The loop that most people write first: a DataFrame, `isin`, and Python lists."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import torch

from tests.benchmarks.rivals import task

folder = sys.argv[1]
rows = pd.read_parquet(f"{folder}/input")
if task.has_stored(folder):
    rows = rows[~rows["id"].isin(pd.read_parquet(task.stored(folder), columns=["id"])["id"])]
model = task.network(folder)
labels: list[int] = []
best: list[float] = []
probabilities: list[list[float]] = []
with torch.inference_mode():
    for start in range(0, len(rows), 8192):
        values = rows.iloc[start : start + 8192][task.FEATURES].to_numpy("float32")
        scored = torch.softmax(model(torch.from_numpy(values)), dim=1)
        top, indices = scored.max(dim=1)
        best.extend(top.tolist())
        labels.extend(indices.tolist())
        probabilities.extend(scored.tolist())
found = pd.DataFrame({"id": rows["id"].to_numpy(), "prediction": labels, "prediction_proba": best})
for index in range(2):
    found[f"prob_class_{index}"] = [row[index] for row in probabilities]
Path(task.output(folder)).mkdir()
found.to_parquet(f"{task.output(folder)}/part-0.parquet", compression="zstd")
