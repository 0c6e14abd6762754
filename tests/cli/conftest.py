"""A lake where the commands look for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.lake.layout import Lake
from tests import lakes

DAYS = ("2026-01-01", "2026-01-02")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """The lake of the folder in which `cli` and `lakescore` run, without input."""
    (tmp_path / "lake").mkdir()
    return lakes.open_lake(tmp_path / "lake")


@pytest.fixture
def two_days(lake: Lake) -> None:
    """Three predictions of the job `churn` on each of two days; on the second, `c` is gone and `d` has appeared."""
    lakes.add_day(lake, DAYS[0], ["a", "b", "c"])
    lakes.add_day(lake, DAYS[1], ["a", "b", "d"])


@pytest.fixture
def churn(tmp_path: Path) -> None:
    """A job that reads the lake; its model is not registered."""
    folder = tmp_path / "dags" / "jobs" / "churn"
    folder.mkdir(parents=True)
    text = f'[model]\nname = "churn_model"\n[input]\npath = "{lakes.PATTERN}"\nkey = ["id"]\n'
    (folder / "job.toml").write_text(text)
