"""A month of days, a quarter of weeks and 48 hours through a real scheduler, beside the command line's runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.orchestration.airflow_project import AirflowProject, wait
from tests.workspace import Workspace, table

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

NOW = datetime.now(UTC)
BARE = "".join(f"[{name}]\nenabled = false\n" for name in ("quality", "drift", "report"))


class Calendar(NamedTuple):
    every: str
    periods: list[str]
    """The last ones that are over, computed here from the clock."""
    start: date


def days() -> Calendar:
    found = [NOW.date() - timedelta(days=back) for back in range(30, 0, -1)]
    return Calendar("day", [day.isoformat() for day in found], found[0])


def weeks() -> Calendar:
    monday = NOW.date() - timedelta(days=NOW.weekday())
    found = [monday - timedelta(weeks=back) for back in range(13, 0, -1)]
    return Calendar("week", [day.isoformat() for day in found], found[0])


def hours() -> Calendar:
    begin = datetime(NOW.year, NOW.month, NOW.day, tzinfo=UTC) - timedelta(days=2)
    found = [begin + timedelta(hours=hour) for hour in range(48)]
    return Calendar("hour", [f"{each:%Y-%m-%dT%HZ}" for each in found], begin.date())


def schedule(calendar: Calendar) -> str:
    """The moments begin a period, so that the last one that is over was also due."""
    cron = {"day": "0 0 * * *", "week": "0 0 * * 1", "hour": "0 * * * *"}[calendar.every]
    keys = f'every = "{calendar.every}"\ncron = "{cron}"\nstart_date = {calendar.start}\ncatchup = true\nretries = 5'
    return f'{keys}\nretry_delay = "5s"\n'


def place(root: Path, calendar: Calendar) -> Workspace:
    root.mkdir()
    workspace = Workspace(root)
    workspace.model()
    folder = workspace.job(schedule=schedule(calendar), policy='missing_input = "skip"')  # hours since midnight
    with (folder / "job.toml").open("a") as toml:
        toml.write(BARE)
    for number, ds in enumerate(calendar.periods):
        workspace.day(table(50 + number), ds)
    return workspace


@contextmanager
def scheduler(project: AirflowProject) -> Iterator[None]:
    project.airflow("db", "migrate")
    project.start("api-server", "scheduler", "dag-processor")
    try:
        yield
    finally:
        project.stop()


def stored(workspace: Workspace) -> list[dict[str, Any]]:
    return workspace.stored(
        "SELECT ds, id, prediction, prob_class_0, revision, reason FROM predictions ORDER BY ds, id"
    )


@pytest.mark.parametrize("of", [weeks, days, hours])
def test_scheduled_runs_store_what_the_command_line_stores(tmp_path: Path, of: Any) -> None:
    calendar = of()
    by_airflow, by_hand = place(tmp_path / "airflow", calendar), place(tmp_path / "hand", calendar)
    project = AirflowProject(by_airflow, {"AIRFLOW__CORE__PARALLELISM": "4"})
    command = [sys.executable, "-m", "pipeline", "backfill", "--job", "toy"]
    command += ["--from", calendar.periods[0], "--to", calendar.periods[-1]]
    subprocess.run(command, cwd=by_hand.root, env=AirflowProject(by_hand).environment(), check=True, timeout=900)
    with scheduler(project):
        wait(lambda: complete(by_airflow) >= set(calendar.periods), 3000, lambda: str(project.runs()))
    rows = stored(by_airflow)
    wanted = [row for row in rows if str(row["ds"]) in calendar.periods]
    assert {str(row["ds"]) for row in wanted} == set(calendar.periods)
    assert wanted == stored(by_hand)
    assert len({(row["ds"], row["id"]) for row in rows}) == len(rows)


def complete(workspace: Workspace) -> set[str]:
    marks = workspace.lake.glob("predictions/job=toy/ds=*/*/_SUCCESS")
    return {mark.parent.parent.name.removeprefix("ds=") for mark in marks}
