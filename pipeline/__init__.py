"""Lakescore: daily batch inference on a data lake.

Scoring a table from Python:

    from pipeline import Scorer

    predictions = Scorer.load("churn").score(table)

Reading a lake, as Arrow tables:

    from pipeline import Lake

    predictions = Lake.open("lake", job="churn").predictions("2026-01-31").to_pandas()

Running the daily job, as the command line does:

    from pipeline import Context, Settings, find_job, run_day

    settings = Settings.from_environment()
    outcome = run_day(Context.open(find_job("churn", settings), settings), "2026-01-31")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.api.lake import Lake
    from pipeline.api.scorer import Scorer
    from pipeline.context import Context
    from pipeline.errors import LakescoreError, QueryRefused, TransientError, UsageError
    from pipeline.explain.explaining import Answer
    from pipeline.flow.day import Outcome, backfill, run_day
    from pipeline.job.config import Job
    from pipeline.job.loading import find_job
    from pipeline.records import RunRecord
    from pipeline.settings import Settings

__all__ = [
    "Answer",
    "Context",
    "Job",
    "Lake",
    "LakescoreError",
    "Outcome",
    "QueryRefused",
    "RunRecord",
    "Scorer",
    "Settings",
    "TransientError",
    "UsageError",
    "backfill",
    "find_job",
    "run_day",
]

_HOMES = {
    "pipeline.context": ("Context",),
    "pipeline.errors": ("LakescoreError", "QueryRefused", "TransientError", "UsageError"),
    "pipeline.explain.explaining": ("Answer",),
    "pipeline.flow.day": ("Outcome", "backfill", "run_day"),
    "pipeline.job.config": ("Job",),
    "pipeline.job.loading": ("find_job",),
    "pipeline.api.lake": ("Lake",),
    "pipeline.records": ("RunRecord",),
    "pipeline.api.scorer": ("Scorer",),
    "pipeline.settings": ("Settings",),
}


def __getattr__(name: str) -> object:
    """Imports a public name on first access, so that `import pipeline` alone stays cheap."""
    from importlib import import_module

    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
