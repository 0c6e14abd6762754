"""A lake, and a job that reads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.ingest.importing import import_files
from pipeline.ingest.publishing import PublishedDay
from pipeline.job.config import Job
from pipeline.job.loading import find_job
from pipeline.lake.layout import Lake
from pipeline.settings import Settings
from pipeline.tabular import sources
from tests.lakes import open_lake

Import = Callable[..., tuple[PublishedDay, ...]]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return open_lake(tmp_path / "lake")


@pytest.fixture
def job_reading(tmp_path: Path) -> Callable[..., Job]:
    """Makes a job from a path pattern, or from several `source=pattern`."""

    def make(path: str | None = None, *, timezone: str = "UTC", every: str = "day", **patterns: str) -> Job:
        folder = tmp_path / "jobs" / "churn"
        folder.mkdir(parents=True, exist_ok=True)
        reads = f'path = "{path}"' if path else 'select = "input.sql"'
        sources = "".join(f'{name} = "{pattern}"\n' for name, pattern in patterns.items())
        (folder / "input.sql").write_text("SELECT 1")
        (folder / "job.toml").write_text(
            f'[model]\nname = "churn"\n[input]\n{reads}\nkey = ["id"]\n'
            + (f"[input.sources]\n{sources}" if patterns else "")
            + f'[schedule]\ntimezone = "{timezone}"\nevery = "{every}"\n[engine]\nthreads = 2\n'
        )
        return find_job(str(folder), Settings())

    return make


@pytest.fixture
def bring(lake: Lake, job_reading: Callable[..., Job]) -> Import:
    """Imports files into the lake for a job that reads `unscored/ds={ds}/*.parquet`."""

    def call(*paths: Path, types: tuple[str, ...] = (), job: Job | None = None, **options: Any) -> Any:
        reader = job or job_reading("unscored/ds={ds}/*.parquet")
        return import_files(lake, reader, sources.find(paths, types), **options)

    return call
