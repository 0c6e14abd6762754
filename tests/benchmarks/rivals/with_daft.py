"""Daft: an anti-join, and a batch method of a class, which Daft loads once a worker."""

from __future__ import annotations

import sys

import daft
import numpy as np
import pyarrow as pa
from daft import DataType, Series

from tests.benchmarks.rivals import task

folder = sys.argv[1]
OUTPUTS = DataType.struct(
    {
        "prediction": DataType.int64(),
        "prediction_proba": DataType.float32(),
        "prob_class_0": DataType.float32(),
        "prob_class_1": DataType.float32(),
    }
)


@daft.cls
class Predictor:
    def __init__(self) -> None:
        self.model = task.network(folder)

    @daft.method.batch(return_dtype=OUTPUTS, unnest=True, batch_size=task.BATCH)
    def score(self, *columns: Series) -> pa.Array:
        matrix = np.column_stack([column.to_arrow().to_numpy().astype(np.float32) for column in columns])
        found = task.predict(self.model, matrix)
        return pa.StructArray.from_arrays([pa.array(values) for values in found.values()], names=list(found))


rows = daft.read_parquet(task.inputs(folder)).select("id", *task.FEATURES)
if task.has_stored(folder):
    known = daft.read_parquet(f"{task.stored(folder)}/*.parquet").select("id")
    rows = rows.join(known, on="id", how="anti")
scored = rows.select(rows["id"], Predictor().score(*[rows[name] for name in task.FEATURES]))
scored.write_parquet(task.output(folder), compression="zstd")
