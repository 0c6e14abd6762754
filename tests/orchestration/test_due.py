"""Which periods a DAG run is for: a table of cron expressions, zones and start dates, by Airflow's timetables."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest

from pipeline.errors import JobError, UsageError
from pipeline.job.config import Job
from pipeline.job.loading import find_job
from pipeline.orchestration import due
from pipeline.orchestration.due import DagRun
from tests.orchestration.airflow_project import AirflowProject
from tests.workspace import Workspace

NIGHT = datetime(2026, 3, 10, 2, tzinfo=UTC)

RUNS = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization
from pipeline.job.loading import read_job
from pipeline.orchestration import due, tasks
from pathlib import Path
bag = DagBag()
jobs = dict(tasks.load_jobs(Path(sys.argv[1])))
found = {}
for name, count in json.loads(sys.argv[2]).items():
    dag = DagSerialization.from_dict(DagSerialization.to_dict(bag.dags[name]))
    info, found[name] = None, []
    while len(found[name]) < count:
        info = dag.next_dagrun_info(last_automated_run_info=info)
        run = {"run_type": "scheduled", "run_after": info.run_after, "logical_date": info.logical_date, "conf": None}
        found[name].append([period.ds for period in due.periods_due(jobs[name], due.DagRun.of(run))])
answer([found, bag.import_errors])
"""
"""Lets Airflow make the first runs of each DAG, and prints the periods of each."""


class Case(NamedTuple):
    cron: str
    zone: str
    start: str
    expected: list[str]
    """The periods of each of the first runs, of one month: `3-5` is a run for the 3rd to the 5th."""
    since_last_run: bool = False


TABLE = [
    Case("0 2 * * *", "UTC", "2026-01-01", ["1", "2", "3"]),
    Case("0 0 * * *", "UTC", "2026-01-01", ["1", "2", "3"]),  # the day is over at the very moment
    Case("59 23 * * *", "UTC", "2026-01-01", ["1", "2"]),
    Case("0 2 * * 2-6", "UTC", "2026-01-01", ["1", "2", "5", "6"]),  # from Tuesday to Saturday
    Case("0 2 * * 2-6", "UTC", "2026-01-01", ["1", "2", "3-5", "6"], since_last_run=True),
    Case("0 2 * * 2-6", "UTC", "2026-01-04", ["4-5", "6"], since_last_run=True),  # the start is a Sunday
    Case("0 2 * * 1", "UTC", "2026-01-01", ["4", "11", "18"]),
    Case("0 2 * * 1", "UTC", "2026-01-01", ["1-4", "5-11", "12-18"], since_last_run=True),
    Case("0 2 15 * *", "UTC", "2026-01-01", ["1-14"], since_last_run=True),
    Case("@hourly", "UTC", "2026-01-01", ["1"] * 24 + ["2"]),
    Case("@hourly", "UTC", "2026-01-01", ["1"] * 24 + ["2"], since_last_run=True),
    Case("0 6,18 * * *", "UTC", "2026-01-01", ["1", "1", "2", "2"]),
    Case("0 2 * * *", "Asia/Tokyo", "2026-01-01", ["1", "2", "3"]),
    Case("30 0 * * *", "Europe/Berlin", "2026-01-01", ["1", "2", "3"]),
    Case("0 23 * * *", "America/New_York", "2026-01-01", ["1", "2", "3"]),
    Case("0 2 * * *", "Pacific/Kiritimati", "2026-01-01", ["1", "2", "3"]),
    Case("0 2 * * *", "Asia/Kathmandu", "2026-01-01", ["1", "2", "3"]),
    # The clocks go forward: on 29 March in Berlin, on 8 March in New York and, at midnight, in Havana.
    Case("0 2 * * *", "Europe/Berlin", "2026-03-27", ["27", "28", "29", "30"]),
    Case("30 2 * * *", "Europe/Berlin", "2026-03-27", ["27", "28", "29", "30"]),
    Case("0 0 * * *", "Europe/Berlin", "2026-03-27", ["27", "28", "29", "30"]),
    Case("30 2 * * 1-5", "Europe/Berlin", "2026-03-26", ["26", "27-29", "30"], since_last_run=True),
    Case("30 2 * * *", "America/New_York", "2026-03-06", ["6", "7", "8", "9"]),
    Case("0 0 * * *", "America/Havana", "2026-03-06", ["6", "7", "8", "9"]),
    Case("30 0 * * *", "America/Havana", "2026-03-06", ["6", "7", "8", "9"]),
    Case("@hourly", "Europe/Berlin", "2026-03-29", ["29"] * 24 + ["30"]),
    # The clocks go back: on 25 October in Berlin, on 1 November in New York and, at one o'clock, in Havana.
    Case("0 2 * * *", "Europe/Berlin", "2026-10-23", ["23", "24", "25", "26"]),
    Case("30 2 * * *", "Europe/Berlin", "2026-10-23", ["23", "24", "25", "26"]),
    Case("30 2 * * 1-5", "Europe/Berlin", "2026-10-22", ["22", "23-25", "26"], since_last_run=True),
    Case("30 1 * * *", "America/New_York", "2026-11-01", ["1", "2", "3"]),
    Case("0 0 * * *", "America/Havana", "2026-11-01", ["1", "2", "3"]),
    Case("30 0 * * *", "America/Havana", "2026-11-01", ["1", "2", "3"]),
    Case("@hourly", "Europe/Berlin", "2026-10-24", ["24"] * 25 + ["25"] * 24 + ["26"]),
]


class Grained(NamedTuple):
    schedule: str
    first: list[str]
    """The periods of the first runs."""


def hours(first: str, count: int, step: int = 1) -> list[str]:
    begin = datetime.strptime(first, "%Y-%m-%dT%HZ").replace(tzinfo=UTC)
    each = [f"{begin + timedelta(hours=hour):%Y-%m-%dT%HZ}" for hour in range(count * step)]
    return [" ".join(each[at : at + step]) for at in range(0, len(each), step)]


OF_OTHER_GRAINS = [
    Grained('every = "week"\nstart_date = 2026-01-01', ["2025-12-29", "2026-01-05", "2026-01-12"]),
    Grained('every = "week"\ncron = "0 2 * * *"\nstart_date = 2026-01-05', ["2026-01-05"] * 7 + ["2026-01-12"]),
    Grained('every = "week"\ntimezone = "Asia/Tokyo"\nstart_date = 2026-01-05', ["2026-01-05", "2026-01-12"]),
    Grained('every = "month"\nstart_date = 2026-01-31', ["2026-01-01", "2026-02-01", "2026-03-01"]),
    Grained(
        'every = "week"\ncron = "0 2 1 * *"\nsince_last_run = true\nstart_date = 2026-01-05',
        ["2026-01-05 2026-01-12 2026-01-19", "2026-01-26 2026-02-02 2026-02-09 2026-02-16"],
    ),
    Grained('lag = "0h"\ncron = "0 22 * * *"\nstart_date = 2026-01-01', ["2026-01-01", "2026-01-02"]),
    Grained('lag = "26h"\ncron = "0 2 * * *"\nstart_date = 2026-01-01', ["2026-01-01", "2026-01-02"]),
    Grained('every = "hour"\nlag = "3h"\nstart_date = 2026-01-01', hours("2026-01-01T00Z", 5)),
    Grained('every = "hour"\nstart_date = 2026-01-05', hours("2026-01-05T00Z", 7 * 24)),
    # Each hour once, over both changes of the clocks, whatever the zone of the cron expression.
    Grained('every = "hour"\ntimezone = "Europe/Berlin"\nstart_date = 2026-03-28', hours("2026-03-27T23Z", 60)),
    Grained('every = "hour"\ntimezone = "Europe/Berlin"\nstart_date = 2026-10-24', hours("2026-10-23T22Z", 60)),
    Grained('every = "hour"\ntimezone = "America/New_York"\nstart_date = 2026-11-01', hours("2026-11-01T04Z", 40)),
    Grained('every = "hour"\ntimezone = "Asia/Kathmandu"\nstart_date = 2026-01-01', hours("2025-12-31T18Z", 40)),
    Grained(
        'every = "hour"\ncron = "0 */6 * * *"\nsince_last_run = true\nstart_date = 2026-01-01',
        hours("2026-01-01T00Z", 5, 6),
    ),
]


def spelled(case: Case) -> list[list[str]]:
    month = case.start[:8]
    spans = [tuple(map(int, text.split("-"))) for text in case.expected]
    return [[f"{month}{day:02}" for day in range(span[0], span[-1] + 1)] for span in spans]


@pytest.mark.slow
def test_scheduled_runs_are_for_the_days_that_became_due(workspace: Workspace) -> None:
    project = AirflowProject(workspace)
    for number, case in enumerate(TABLE):
        keys = {"cron": case.cron, "timezone": case.zone}
        lines = [*(f'{key} = "{value}"' for key, value in keys.items()), f"start_date = {case.start}", "catchup = true"]
        workspace.job(f"case{number}", schedule="\n".join([*lines, f"since_last_run = {case.since_last_run}".lower()]))
    for number, other in enumerate(OF_OTHER_GRAINS):
        workspace.job(f"other{number}", schedule=f"{other.schedule}\ncatchup = true")
    counts = {f"case{number}": len(case.expected) for number, case in enumerate(TABLE)}
    counts |= {f"other{number}": len(other.first) for number, other in enumerate(OF_OTHER_GRAINS)}
    found, errors = project.python(RUNS, str(project.dags), json.dumps(counts))
    assert errors == {}
    for number, other in enumerate(OF_OTHER_GRAINS):
        assert [" ".join(run) for run in found[f"other{number}"]] == other.first, other.schedule
    wrong = [
        (case[:3], found[f"case{number}"], spelled(case))
        for number, case in enumerate(TABLE)
        if found[f"case{number}"] != spelled(case)
    ]
    assert wrong == []


def a_job(workspace: Workspace, schedule: str = "") -> Job:
    workspace.job(schedule=schedule)
    return find_job("toy", workspace.settings)


def days(job: Job, run: DagRun, params: dict[str, Any] | None = None) -> list[str]:
    return [period.ds for period in due.periods_due(job, run, params)]


@pytest.mark.parametrize(
    ("zone", "run", "expected"),
    [
        ("UTC", DagRun("manual", NIGHT), "2026-03-09"),
        ("UTC", DagRun("asset_triggered", NIGHT), "2026-03-09"),
        ("UTC", DagRun("manual", NIGHT, NIGHT), "2026-03-09"),  # the form in Airflow fills in "now"
        ("UTC", DagRun("manual", NIGHT, datetime(2026, 1, 5, 23, tzinfo=UTC)), "2026-01-05"),  # another moment, by hand
        ("UTC", DagRun("operator_triggered", NIGHT, datetime(2026, 1, 5, tzinfo=UTC)), "2026-01-05"),
        ("Asia/Tokyo", DagRun("manual", datetime(2026, 3, 9, 16, tzinfo=UTC)), "2026-03-09"),  # there, it is the 10th
        ("America/New_York", DagRun("asset_triggered", NIGHT), "2026-03-08"),  # there, it is still the 9th
        ("UTC", DagRun("manual", NIGHT, NIGHT, {"date": "2026-01-31"}), "2026-01-31"),
        ("UTC", DagRun("backfill", NIGHT, NIGHT, {"date": "2026-01-31"}), "2026-01-31"),
    ],
)
def test_run_without_schedule_is_for_one_day(workspace: Workspace, zone: str, run: DagRun, expected: str) -> None:
    job = a_job(workspace, f'timezone = "{zone}"\nsince_last_run = true')
    assert days(job, run) == [expected]
    assert days(job, run, {"date": None}) == [expected]


def test_date_of_the_parameters_is_the_day(workspace: Workspace) -> None:
    assert days(a_job(workspace), DagRun("scheduled", NIGHT), {"date": "2026-01-31"}) == ["2026-01-31"]


@pytest.mark.parametrize(
    ("conf", "named"), [({"day": "2026-01-31"}, "'day'"), ({"date": "2026-01-31", "force": True}, "'force'")]
)
def test_run_with_an_unknown_parameter_is_refused(workspace: Workspace, conf: dict[str, Any], named: str) -> None:
    job = a_job(workspace)
    with pytest.raises(UsageError, match=re.escape(named)):
        due.periods_due(job, DagRun("manual", NIGHT, conf=conf))
    with pytest.raises(UsageError, match=re.escape(named)):
        due.periods_due(job, DagRun("manual", NIGHT), conf)


@pytest.mark.parametrize("date", ["2026-02-30", "31.01.2026", 20260131, "", "2026-01-31T05Z"])
def test_run_with_a_date_that_is_none_is_refused(workspace: Workspace, date: Any) -> None:
    with pytest.raises(UsageError, match="is not a day"):
        due.periods_due(a_job(workspace), DagRun("manual", NIGHT, conf={"date": date}))


@pytest.mark.parametrize("schedule", ['cron = ""', 'assets = ["orders"]'])
def test_since_last_run_without_a_cron_schedule_is_refused(workspace: Workspace, schedule: str) -> None:
    with pytest.raises(JobError, match="since_last_run needs `cron`"):
        a_job(workspace, f"since_last_run = true\n{schedule}")


@pytest.mark.slow
def test_start_of_a_dag_whose_cron_is_invalid_is_left_to_airflow(workspace: Workspace) -> None:
    project = AirflowProject(workspace)
    workspace.job("invalid", schedule='cron = "61 * * * *"')
    workspace.job("fine")
    found = project.python("""
import json
from airflow.dag_processing.dagbag import DagBag
bag = DagBag()
answer([sorted(bag.dags), list(map(str, bag.import_errors.values()))])
""")
    assert found[0] == ["fine", "toy"]
    assert "61" in found[1][0]


RANGE = """
import json, sys
from pathlib import Path
from datetime import datetime
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization
from pipeline.orchestration import due, tasks
name, begin, end = sys.argv[2:]
job = dict(tasks.load_jobs(Path(sys.argv[1])))[name]
dag = DagSerialization.from_dict(DagSerialization.to_dict(DagBag().dags[name]))
runs = dag.iter_dagrun_infos_between(datetime.fromisoformat(begin), datetime.fromisoformat(end))
made = [{"run_type": "backfill", "run_after": i.run_after, "logical_date": i.logical_date, "conf": None} for i in runs]
answer([[each.ds for each in due.periods_due(job, due.DagRun.of(run))] for run in made])
"""
"""Prints the periods of the runs that `airflow backfill create` makes between two dates."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schedule", "first", "last", "expected"),
    [
        ('cron = "0 2 * * *"', "2026-01-05", "2026-01-07", [["05"], ["06"], ["07"]]),
        ('cron = "0 2 * * *"\ntimezone = "Asia/Tokyo"', "2026-01-05", "2026-01-06", [["05"], ["06"]]),
        ('cron = "30 0 * * *"\ntimezone = "Europe/Berlin"', "2026-03-28", "2026-03-30", [["28"], ["29"], ["30"]]),
        ('cron = "0 2 * * 2-6"\nsince_last_run = true', "2026-01-09", "2026-01-12", [["09"], ["10", "11", "12"]]),
        ('cron = "0 2 * * 2-6"', "2026-01-09", "2026-01-12", "no run for 2026-01-10, 2026-01-11"),
        ('cron = "0 2 * * *"', "2026-01-05", "2999-01-01", "no run for 20"),
    ],
)
def test_backfill_through_airflow_makes_the_runs_of_these_days(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, schedule: str, first: str, last: str, expected: Any
) -> None:
    from pipeline.orchestration import local_airflow

    job, project = a_job(workspace, schedule), AirflowProject(workspace)
    monkeypatch.chdir(workspace.root)
    if isinstance(expected, str):
        with pytest.raises(UsageError, match=expected):
            local_airflow._range(job, workspace.settings, job.period(first), job.period(last))
        return
    begin, end = local_airflow._range(job, workspace.settings, job.period(first), job.period(last))
    found = project.python(RANGE, str(project.dags), "toy", begin, end)
    assert found == [[f"{first[:8]}{day}" for day in run] for run in expected]
