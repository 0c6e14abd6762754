"""A run with its imports done before; it prints the stages as JSON.

python -m tests.benchmarks.whole WORKSPACE [JOB [WORKERS]]
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import torch  # noqa: F401 - the run finds it imported

import pipeline.committing.stage
import pipeline.scoring.stage  # noqa: F401 - likewise
from pipeline import Context, Settings, find_job, run_day
from tests.benchmarks.parts import DAY


def main(folder: Path, name: str = "batch_inference", workers: str = "") -> None:
    settings = Settings(
        lake=str(folder / "lake"),
        jobs=folder / "dags" / "jobs",
        models=str(folder / "models"),
        threads=int(workers) if workers else None,
    )
    job = find_job(name, settings)
    if job.quality.enabled:
        importlib.import_module("pipeline.quality.gx_engine")
        importlib.import_module("pipeline.report.quality_pages")
    record = run_day(Context.open(job, settings), DAY).record
    assert record is not None
    stages = {stage.stage: stage.wall_s for stage in record.stages}
    busy = next(stage.busy for stage in record.stages if stage.stage == "score")
    print(json.dumps({"stages": stages, "busy": busy, "peak_memory_bytes": record.peak_memory_bytes}))  # noqa: T201


main(Path(sys.argv[1]), *sys.argv[2:])
