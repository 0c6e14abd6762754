"""`lakescore status`: the calendar of a job, and the days that need attention."""

from __future__ import annotations

import json

import pytest

from pipeline.errors import UsageError
from pipeline.lake.layout import Lake
from tests import lakes
from tests.calling import Cli
from tests.workspace import DAY

STATUS = ("status", "--job", "churn")

pytestmark = pytest.mark.usefixtures("lake", "churn")


def test_cli_calendar_has_a_line_a_month_and_a_mark_a_day(cli: Cli, lake: Lake) -> None:
    for ds in ("2026-01-01", "2026-01-03", "2026-02-28"):
        lakes.add_day(lake, ds)
    lakes.add_input(lake, "2026-01-04", lakes.input_rows(["a"]))
    lines = cli(*STATUS).stdout.splitlines()
    assert "2026-01  ■ ■□" in [line.rstrip() for line in lines]
    assert "2026-02  " + " " * 27 + "■" in [line.rstrip() for line in lines]
    assert any(line.split() == ["■", "3", "complete", "□", "1", "missing"] for line in lines)


def test_cli_model_that_is_not_registered_is_said_so(cli: Cli, lake: Lake) -> None:
    lakes.add_day(lake, DAY)
    done = cli(*STATUS)
    assert "churn_model" in done.stderr
    assert "1 complete" in done.stdout


def test_cli_lake_without_days_is_said_so(cli: Cli) -> None:
    assert "no day has input or predictions" in cli(*STATUS).stdout


def test_cli_many_days_list_only_those_that_are_amiss(cli: Cli, lake: Lake) -> None:
    for day in range(1, 31):
        lakes.add_day(lake, f"2026-01-{day:02d}", ["a"])
        lakes.add_input(lake, f"2026-03-{day:02d}", lakes.input_rows(["a"]))
    lines = cli(*STATUS).stdout.splitlines()
    assert [line for line in lines if line.strip().startswith("2026-01-")] == []
    assert len([line for line in lines if line.strip().startswith("2026-03-")]) == 30


def test_cli_json_has_all_of_it(cli: Cli, lake: Lake) -> None:
    lakes.add_day(lake, DAY, ["a", "b"])
    found = json.loads(cli(*STATUS, "--json", "--from", DAY, "--to", DAY).stdout)
    assert (found["job"], found["model"]) == ("churn", None)
    assert [(day["ds"], day["state"], day["candidates"]) for day in found["days"]] == [(DAY, "complete", 2)]


def test_cli_day_that_is_none_is_refused(cli: Cli) -> None:
    assert "2026-02-30" in cli(*STATUS, "--from", "2026-02-30", expect=UsageError).stderr
