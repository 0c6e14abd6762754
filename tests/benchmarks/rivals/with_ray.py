"""Ray Data: `map_batches` with a class that loads the model once an actor.

An actor a core would leave none to the tasks that read, and the job would never start: each asks for half a core.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import ray

from pipeline.machine import usable_cores
from tests.benchmarks.rivals import task

folder = sys.argv[1]


class Predictor:
    def __init__(self) -> None:
        self.model = task.network(folder)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        matrix = np.column_stack([batch[name].astype(np.float32) for name in task.FEATURES])
        return {"id": batch["id"], **task.predict(self.model, matrix)}


ray.init(num_cpus=usable_cores(), include_dashboard=False, logging_level="ERROR", log_to_driver=False)
ray.data.DataContext.get_current().enable_progress_bars = False
rows = ray.data.read_parquet(f"{folder}/input", columns=["id", *task.FEATURES])
workers = usable_cores()
pool = ray.data.ActorPoolStrategy(size=workers)
rows = rows.map_batches(Predictor, batch_size=task.BATCH, num_cpus=0.5, compute=pool)
rows.write_parquet(task.output(folder))
