"""The workspaces that are measured: a day of made-up users, a registered network 6-64-64-2, and two jobs."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.benchmarks.measuring import python
from tests.benchmarks.parts import DAY, FEATURES

FULL, CORE = "batch_inference", "core"
"""The default job, and what is left of it without validation, profile, drift and report."""
WITHOUT = """
[quality]
enabled = false

[drift]
enabled = false

[report]
enabled = false
"""
KEPT = ("predictions", "runs", "profiles")
"""What a day that is scored leaves in the lake, and the next run of it needs."""


def make(scratch: Path, rows: int) -> Path:
    folder = scratch / f"daily-{rows}"
    shutil.rmtree(folder, ignore_errors=True)
    python("-c", f"from pathlib import Path; from pipeline.demo import *; make_workspace(Path({str(folder)!r}))")
    python(
        "-c", f"from pathlib import Path; from pipeline.demo import train; train(Path({str(folder / 'model.pt')!r}))"
    )
    register = ["models", "register", "model.pt", "--name", "batch_inference", "--version", "v1"]
    python("-m", "pipeline", *register, "--features", FEATURES.replace(" ", ""), "--alias", "production", cwd=folder)
    python("-m", "pipeline", "generate", "--date", DAY, "--rows", rows, cwd=folder)
    jobs = folder / "dags" / "jobs"
    (jobs / CORE).mkdir()
    (jobs / CORE / "job.toml").write_text((jobs / FULL / "job.toml").read_text() + WITHOUT)
    return folder


def day(folder: Path) -> Path:
    return folder / "lake" / "unscored" / f"ds={DAY}"


def forget(folder: Path) -> None:
    """Removes what runs have left. What was measured about model and machine stays, as it does for a user."""
    for left in (*KEPT, "quality", "drift", "reports", ".staging"):
        shutil.rmtree(folder / "lake" / left, ignore_errors=True)
