"""A hand-written script: lazy scan, anti-join, torch over slices of the collected columns."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import polars as pl

from tests.benchmarks.rivals import task

folder = sys.argv[1]
scan = pl.scan_parquet(task.inputs(folder)).select("id", *(pl.col(name).cast(pl.Float32) for name in task.FEATURES))
if task.has_stored(folder):
    scan = scan.join(pl.scan_parquet(f"{task.stored(folder)}/*.parquet").select("id"), on="id", how="anti")
rows = scan.collect(engine="streaming")
matrix = rows.select(task.FEATURES).to_numpy()
model = task.network(folder)
pieces = [
    task.predict(model, np.ascontiguousarray(matrix[start : start + task.BATCH]))
    for start in range(0, len(matrix), task.BATCH)
]
outputs = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
Path(task.output(folder)).mkdir()
rows.select("id").with_columns(**{name: pl.Series(values) for name, values in outputs.items()}).write_parquet(
    f"{task.output(folder)}/part-0.parquet", compression="zstd"
)
