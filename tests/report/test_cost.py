"""The cost of the index depends on its window, not on the length of the history."""

from __future__ import annotations

import time
from datetime import date, timedelta
from pathlib import Path

import pytest

from pipeline.lake.layout import Lake, Partition
from pipeline.report import pages
from tests import lakes

FEW, MANY = 100, 1_000
"""Days of history; the window is 92 days."""


def history(root: Path, days: int) -> Lake:
    lake = lakes.open_lake(root)
    for number in range(days):
        ds = (date(2023, 1, 1) + timedelta(days=number)).isoformat()
        lakes.add_run(lake, Partition("churn", ds, "v1"), scored=10)
    return lake


def cpu_s(lake: Lake) -> float:
    """Returns the lowest CPU time of three attempts, in seconds: other load on the machine only adds to it."""
    took = []
    for _ in range(3):
        started = time.process_time()
        pages.write_index(lake)
        took.append(time.process_time() - started)
    return min(took)


@pytest.mark.slow
def test_index_of_a_thousand_days_costs_as_much_as_of_a_hundred(tmp_path: Path) -> None:
    few, many = history(tmp_path / "few", FEW), history(tmp_path / "many", MANY)
    pages.write_index(few)  # imports
    before, after = cpu_s(few), cpu_s(many)
    assert after < before * 1.3 + 0.1, f"{before:.2f} s of {FEW} days, {after:.2f} s of {MANY}"
