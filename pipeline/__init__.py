"""Lakescore: daily batch inference on a data lake.

From Python, a table in and predictions out:

    from pipeline import Scorer

    predictions = Scorer.load("churn").score(table)

and the daily job, as the command line runs it:

    from pipeline import Context, Settings, find_job, run_day

    settings = Settings.from_environment()
    outcome = run_day(Context.open(find_job("churn", settings), settings), "2026-01-31")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.context import Context
    from pipeline.errors import LakescoreError, TransientError
    from pipeline.job import Job, find_job
    from pipeline.lake import Lake
    from pipeline.records import RunRecord
    from pipeline.run import Outcome, backfill, run_day
    from pipeline.scorer import Scorer
    from pipeline.settings import Settings

__all__ = [
    "Context",
    "Job",
    "Lake",
    "LakescoreError",
    "Outcome",
    "RunRecord",
    "Scorer",
    "Settings",
    "TransientError",
    "backfill",
    "find_job",
    "run_day",
]

_HOMES = {
    "context": ("Context",),
    "errors": ("LakescoreError", "TransientError"),
    "job": ("Job", "find_job"),
    "lake": ("Lake",),
    "records": ("RunRecord",),
    "run": ("Outcome", "backfill", "run_day"),
    "scorer": ("Scorer",),
    "settings": ("Settings",),
}


def __getattr__(name: str) -> object:
    """Imports a public name when it is first asked for: `import pipeline` alone costs nothing."""
    from importlib import import_module

    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"pipeline.{module}"), name)
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
