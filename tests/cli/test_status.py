"""`lakescore status --all-jobs` and `lakescore metrics`; the calendar of one job is in `test_days.py`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.lake.layout import Lake
from tests import lakes
from tests.calling import Cli

pytestmark = pytest.mark.usefixtures("churn")


def test_all_jobs_have_a_line_each(cli: Cli, lake: Lake) -> None:
    lakes.add_day(lake, "2026-01-01")
    done = cli("status", "--all-jobs").stdout
    assert "churn" in done
    assert "2026-01-01" in done, "the newest complete day, however long ago"
    assert "0 of 1 job as they should be" in done
    (found,) = json.loads(cli("status", "--all-jobs", "--json").stdout)
    assert (found["job"], found["owner"], found["last_complete"]["ds"]) == ("churn", "lakescore", "2026-01-01")
    cli("status", "--all-jobs", "--job", "churn", expect=UsageError)


def test_metrics_go_to_standard_output_or_replace_a_file(cli: Cli, lake: Lake, tmp_path: Path) -> None:
    assert cli("metrics").stdout.endswith("# EOF\n")
    target = tmp_path / "lakescore.prom"
    target.write_text("old")
    assert cli("metrics", "--output", target).stdout == ""
    assert 'lakescore_due_period_complete{job_name="churn"} 0' in target.read_text()
    assert sorted(path.name for path in tmp_path.iterdir() if "prom" in path.name) == ["lakescore.prom"]
