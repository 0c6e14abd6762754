"""A period within larger files: `partition_by`, and a SELECT that compares with $start and $end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest

from pipeline.errors import InputEmpty, InputError, JobError, SchemaMismatch
from pipeline.flow import day as flow
from tests.workspace import Workspace, write_table

BERLIN = ZoneInfo("Europe/Berlin")
BEGIN = datetime(2026, 10, 24, 20, tzinfo=UTC)
TIMES = [BEGIN + timedelta(minutes=20 * number) for number in range(200)]
"""Every 20 minutes for almost three days, over the hour that Berlin has twice."""
VALUES = [((7 * number) % 200 - 100) / 50 for number in range(200)]
INSTANTS = pa.array(TIMES, pa.timestamp("us", "UTC"))
AS_WRITTEN = pa.array([time.astimezone(BERLIN).replace(tzinfo=None) for time in TIMES], pa.timestamp("us"))
DATES = pa.array([time.astimezone(BERLIN).date() for time in TIMES], pa.date32())


def job_of(workspace: Workspace, text: str, reads: str = 'partition_by = "seen"', schedule: str = "") -> Path:
    folder = workspace.job(reads=reads, schedule=f'timezone = "Europe/Berlin"\n{schedule}')
    toml = (folder / "job.toml").read_text().replace('path = "unscored/ds={ds}/*.parquet"', text)
    (folder / "job.toml").write_text(toml)
    return folder


def events(workspace: Workspace, times: pa.Array, path: str = "events/all.parquet") -> None:
    file = workspace.lake / path
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = {"id": [f"k{number}" for number in range(len(times))], "a": VALUES[: len(times)], "b": VALUES[-len(times) :]}
    write_table(pa.table({**rows, "seen": times}), file)


def counted(workspace: Workspace) -> dict[str, int]:
    rows = workspace.stored("SELECT ds, count(*) AS n FROM predictions GROUP BY ds ORDER BY ds")
    return {str(row["ds"]): row["n"] for row in rows}


def run_all(workspace: Workspace, first: str, last: str) -> None:
    ctx = workspace.context()
    begin, end = ctx.job.range(first, last)
    assert begin is not None
    assert end is not None
    outcomes = list(flow.backfill(ctx, flow.with_input(ctx, [period.ds for period in begin.through(end)])))
    assert [outcome.error for outcome in outcomes] == [None] * len(outcomes)


@pytest.mark.slow
@pytest.mark.parametrize("times", [INSTANTS, AS_WRITTEN, DATES], ids=["instants", "as written", "dates"])
def test_rows_of_one_file_are_each_of_one_day_in_the_zone_of_the_job(workspace: Workspace, times: pa.Array) -> None:
    job_of(workspace, 'path = "events/*.parquet"')
    events(workspace, times)
    run_all(workspace, "2026-10-24", "2026-10-27")
    expected = Counter(time.astimezone(BERLIN).date().isoformat() for time in TIMES)
    assert counted(workspace) == expected
    assert sum(expected.values()) == len({row["id"] for row in workspace.stored()}) == len(TIMES)


def week(time: datetime) -> str:
    day = time.astimezone(BERLIN).date()
    return (day - timedelta(days=day.weekday())).isoformat()


def hour(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%HZ}"


@pytest.mark.slow
@pytest.mark.parametrize(("every", "of", "hours"), [("week", week, 0), ("hour", hour, 6)])
def test_rows_of_one_file_are_each_of_one_week_or_hour(
    workspace: Workspace, every: str, of: Callable[[datetime], str], hours: int
) -> None:
    times = [time for time in TIMES if not hours or time < BEGIN + timedelta(hours=hours)]
    job_of(workspace, 'path = "events/*.parquet"', schedule=f'every = "{every}"')
    events(workspace, pa.array(times, pa.timestamp("us", "UTC")))
    run_all(workspace, of(times[0]), of(times[-1]))
    assert counted(workspace) == Counter(map(of, times))


@pytest.mark.slow
def test_hours_of_a_file_of_their_day_are_found_by_its_path(workspace: Workspace) -> None:
    job_of(workspace, 'path = "events/{ds:%Y%m%d}.parquet"', schedule='every = "hour"')
    times = [datetime(2026, 10, 25, tzinfo=UTC) + timedelta(hours=number) for number in range(3)]
    events(workspace, pa.array(times, pa.timestamp("us", "UTC")), "events/20261025.parquet")
    run_all(workspace, "2026-10-25T00Z", "2026-10-25T02Z")
    assert counted(workspace) == dict.fromkeys(map(hour, times), 1)


@pytest.mark.slow
def test_select_with_the_bounds_of_the_period_reads_files_of_all(workspace: Workspace) -> None:
    folder = job_of(workspace, 'select = "rows.sql"', reads="")
    (folder / "rows.sql").write_text("SELECT id, a, b FROM events WHERE seen >= $start AND seen < $end")
    with (folder / "job.toml").open("a") as toml:
        toml.write('[input.sources]\nevents = "events/*.parquet"\n')
    events(workspace, INSTANTS)
    run_all(workspace, "2026-10-24", "2026-10-27")
    assert counted(workspace) == Counter(time.astimezone(BERLIN).date().isoformat() for time in TIMES)


def test_select_without_any_bound_over_files_of_all_periods_is_refused(workspace: Workspace) -> None:
    folder = job_of(workspace, 'select = "rows.sql"', reads="")
    (folder / "rows.sql").write_text("SELECT id, a, b FROM events")
    with (folder / "job.toml").open("a") as toml:
        toml.write('[input.sources]\nevents = "events/*.parquet"\n')
    with pytest.raises(JobError, match="no path contains"):
        workspace.context()


@pytest.mark.parametrize("text", ['path = "events/*.parquet"', 'path = "events/{year}/{month}.parquet"'])
def test_files_of_several_periods_without_a_column_are_refused(workspace: Workspace, text: str) -> None:
    job_of(workspace, text, reads="")
    with pytest.raises(JobError, match="partition_by"):
        workspace.context()


def test_period_without_rows_in_the_files_is_empty(workspace: Workspace) -> None:
    job_of(workspace, 'path = "events/*.parquet"')
    events(workspace, INSTANTS)
    with pytest.raises(InputEmpty):
        workspace.run("2026-11-30")


@pytest.mark.parametrize(
    ("times", "schedule", "error", "text"),
    [
        (pa.array([None, *TIMES[1:]], pa.timestamp("us", "UTC")), "", InputError, "1 row has no seen"),
        (pa.array(["2026-10-25"] * 5), "", SchemaMismatch, "does not tell the day"),
        (AS_WRITTEN, 'every = "hour"', SchemaMismatch, "may be in UTC or in Europe/Berlin"),
        (DATES, 'every = "hour"\ntimezone = "UTC"', SchemaMismatch, "does not tell the hour"),
    ],
)
def test_column_that_does_not_tell_the_period_is_refused(
    workspace: Workspace, times: Any, schedule: str, error: type[Exception], text: str
) -> None:
    folder = job_of(workspace, 'path = "events/*.parquet"', schedule=schedule)
    if "timezone" in schedule:
        toml = folder / "job.toml"
        toml.write_text(toml.read_text().replace('timezone = "Europe/Berlin"\n', ""))
    events(workspace, times)
    with pytest.raises(error, match=text):
        workspace.run("2026-10-25T00Z" if "hour" in schedule else date(2026, 10, 25).isoformat())
