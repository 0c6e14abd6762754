"""Spark, local: an anti-join, and `mapInArrow`, which hands over batches without pandas."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from pyspark.sql import SparkSession

from tests.benchmarks.rivals import task

os.environ["PYSPARK_PYTHON"] = sys.executable
folder = sys.argv[1]
SCHEMA = "id string, prediction long, prediction_proba float, prob_class_0 float, prob_class_1 float"


def score(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    model = task.network(folder)
    for batch in batches:
        if batch.num_rows:
            matrix = np.column_stack([batch.column(name).to_numpy().astype(np.float32) for name in task.FEATURES])
            yield pa.RecordBatch.from_pydict({"id": batch.column("id"), **task.predict(model, matrix)})


spark = (
    SparkSession.builder.master("local[*]")
    .config("spark.driver.memory", "8g")
    .config("spark.ui.enabled", "false")
    .config("spark.sql.execution.arrow.maxRecordsPerBatch", task.BATCH)
    .config("spark.sql.parquet.compression.codec", "zstd")
    .getOrCreate()
)
rows = spark.read.parquet(f"{folder}/input").select("id", *task.FEATURES)
if task.has_stored(folder):
    rows = rows.join(spark.read.parquet(task.stored(folder)).select("id"), "id", "left_anti")
rows.mapInArrow(score, SCHEMA).write.parquet(task.output(folder))
spark.stop()
