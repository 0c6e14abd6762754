"""Jobs of weeks, months and hours: runs, look-back, calendar, drift and retention go by the job's own periods."""

from __future__ import annotations

import json

import pytest

from pipeline.care.expire import expire
from pipeline.errors import InputMissing, JobError, UsageError
from pipeline.flow import day as flow
from pipeline.profiles import store
from pipeline.records import now
from tests.calling import Cli
from tests.workspace import Workspace

PERIODS = {
    "hour": ["2026-10-25T00Z", "2026-10-25T01Z", "2026-10-25T02Z"],  # in Berlin, it is 2 o'clock twice
    "week": ["2025-12-29", "2026-01-05", "2026-01-12"],
    "month": ["2025-12-01", "2026-01-01", "2026-02-01"],
}
LOOK = 'timezone = "Europe/Berlin"\nlookback = 1'


def job_of(workspace: Workspace, grain: str, more: str = LOOK) -> None:
    workspace.job(schedule=f'every = "{grain}"\n{more}')
    for number, ds in enumerate(PERIODS[grain]):
        workspace.day(10 + number, ds)


@pytest.mark.parametrize("grain", PERIODS)
def test_runs_of_each_grain_score_their_own_period_and_look_back(workspace: Workspace, grain: str) -> None:
    job_of(workspace, grain)
    first, second, third = PERIODS[grain]
    assert [outcome.ds for outcome in flow.run(workspace.context(), third)] == [third, second]
    rows = workspace.stored("SELECT ds, count(*) AS n FROM predictions GROUP BY ds ORDER BY ds")
    assert [(str(row["ds"]), row["n"]) for row in rows] == [(second, 11), (third, 12)]
    assert [outcome.up_to_date for outcome in flow.run(workspace.context(), third)] == [True, True]
    ctx = workspace.context()
    record = ctx.lake.records.last_complete("toy", third)
    assert record is not None
    profiles = store.recent_profiles(ctx, third, record.model, 2)
    assert list(profiles) == [second]
    before = (ctx.job.period(first) - 1).ds
    with pytest.raises(InputMissing, match=f"3 {grain}s, {first} to {third}"):
        workspace.run(before)


@pytest.mark.slow
@pytest.mark.parametrize("grain", PERIODS)
def test_commands_take_and_show_periods_of_each_grain(workspace: Workspace, cli: Cli, grain: str) -> None:
    job_of(workspace, grain)
    job = ("--job", "toy")
    ends = ("2026-10-25", "2026-10-25") if grain == "hour" else ("2025-12-30", "2026-02-14")
    done = json.loads(cli("backfill", *job, "--from", ends[0], "--to", ends[1], "--json").stdout)
    assert [(each["ds"], each["state"]) for each in done] == [(ds, "complete") for ds in PERIODS[grain]]
    days = json.loads(cli("status", *job, "--from", ends[0], "--json").stdout)["days"]
    assert [(day["ds"], day["state"]) for day in days] == [(ds, "complete") for ds in PERIODS[grain]]
    shown = cli("status", *job).stdout
    assert f"3 {grain}s, {PERIODS[grain][0]} to {PERIODS[grain][-1]}" in shown
    marks = {"hour": ["2026-10-25  ■■■"], "week": ["2025-12  " + " " * 28 + "■", "2026-01      ■      ■"]}
    marks["month"] = ["2025             ■", "2026  ■■"]
    assert set(marks[grain]) <= {line.rstrip() for line in shown.splitlines()}
    query = cli("query", "daily_summary", "-p", f"to={PERIODS[grain][0][:10]}", "--format", "csv").stdout
    expected = PERIODS[grain] if grain == "hour" else PERIODS[grain][:1]
    assert [line.split(",")[1].strip('"') for line in query.splitlines()[1:]] == expected
    seen = cli("query", "SELECT DISTINCT ds FROM unscored ORDER BY ds", *job, "--format", "csv").stdout
    assert [line.strip('"') for line in seen.splitlines()[1:]] == PERIODS[grain]
    index = workspace.lake / "reports" / "index.html"
    assert all(f'title="{ds}: complete"' in index.read_text() for ds in PERIODS[grain])


def test_week_and_month_may_be_named_by_any_of_their_days(workspace: Workspace, cli: Cli) -> None:
    job_of(workspace, "week")
    (done, _) = json.loads(cli("run", "--job", "toy", "--date", "2026-01-11", "--json").stdout)
    assert done["ds"] == "2026-01-05"


@pytest.mark.parametrize("text", ["2026-10-25", "2026-10-25T2", "2026-10-25T01"])
def test_hour_without_its_zone_is_refused(workspace: Workspace, cli: Cli, text: str) -> None:
    job_of(workspace, "hour")
    assert "2026-01-31T05Z" in cli("run", "--job", "toy", "--date", text, expect=UsageError).stderr


def test_job_that_changes_its_grain_is_refused(workspace: Workspace) -> None:
    workspace.day(10, "2026-01-05")
    workspace.run("2026-01-05")
    workspace.job(schedule='every = "week"')
    workspace.day(10, "2026-01-12")
    with pytest.raises(JobError, match="are those of days, and every = 'week'"):
        workspace.run("2026-01-12")


@pytest.mark.parametrize("grain", PERIODS)
def test_expire_removes_periods_that_were_over_before(workspace: Workspace, grain: str) -> None:
    job_of(workspace, grain)
    ctx = workspace.context()
    last = ctx.job.last_due(now())
    periods = [(last - 1).ds, last.ds]
    for ds in (*periods, PERIODS[grain][0]):
        workspace.day(5, ds)
        workspace.run(ds)
    days_kept = {"hour": 1, "week": 14, "month": 62}[grain]
    assert expire(ctx.lake, ctx.job, keep_days=days_kept) == [PERIODS[grain][0]]
    assert {row["ds"] for row in workspace.stored("SELECT ds::VARCHAR AS ds FROM predictions")} == set(periods)
