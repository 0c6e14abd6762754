"""A real Airflow on SQLite, all its parts: nights that go well, badly, and are killed; started once for all of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.orchestration.airflow_project import ROOT, AirflowProject, wait
from tests.orchestration.collector import Collector, collecting
from tests.orchestration.postgres import postgres
from tests.orchestration.receivers import Inbox, mail_server
from tests.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

DAYS = [f"2026-01-0{number}" for number in range(1, 6)]
STOPPED, RETRIED, KILLED, ORPHANED, WAITED = (f"2026-02-0{number}" for number in range(1, 6))
YESTERDAY = (datetime.now(UTC) - timedelta(days=1)).date().isoformat()
MANY = 1_500_000
ON_POSTGRES = bool(os.environ.get("LAKESCORE_TEST_POSTGRES"))

CONSUMER = """
from airflow.sdk import Asset, dag, get_current_context, task

@dag(schedule=[Asset(name="toy_predictions", uri="lakescore://toy/predictions")], start_date=None)
def consumer():
    @task
    def look():
        events = next(iter(get_current_context()["triggering_asset_events"].values()))
        return [{"ds": event.extra["ds"], "scored": event.extra["ledger"]["scored"]} for event in events]
    look()

consumer()
"""

FULL_DISK = f"""
import errno, os, pathlib, sys
marker = pathlib.Path(os.environ.get("FULL_DISK", ""))
if {{"stage", "commit", "{RETRIED}"}} <= set(sys.orig_argv) and marker.is_file():
    marker.unlink()
    def link(*arguments, **named):
        raise OSError(errno.ENOSPC, "No space left on device")
    os.link = link
"""
"""A `sitecustomize.py`: the first commit of one day finds the disk full."""


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    with mail_server() as found:
        yield found


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as found:
        yield found


@pytest.fixture
def database() -> Iterator[dict[str, str]]:
    """Airflow's settings for its database: SQLite, or with LAKESCORE_TEST_POSTGRES a PostgreSQL of our own."""
    if not ON_POSTGRES:
        yield {}
        return
    with postgres() as address:
        yield {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{address}"}


@pytest.fixture
def project(
    workspace: Workspace, inbox: Inbox, collector: Collector, database: dict[str, str]
) -> Iterator[AirflowProject]:
    told = '\n[notify]\nmail = ["night@example.org"]\napprise = ["DEAD_HOOK"]\n'
    folder = workspace.job(policy='null_features = "fail"', schedule='retry_delay = "1s"\nstart_date = 2026-01-01')
    with (folder / "job.toml").open("a") as toml:
        toml.write(told)
    folder = workspace.job(
        "waits",
        policy='missing_input = "wait"',
        schedule='cron = ""\nretry_delay = "1s"\nwait_interval = "10s"\ndeadline = "5s"',
    )
    with (folder / "job.toml").open("a") as toml:
        toml.write(told)
    faults = workspace.root / "faults"
    faults.mkdir()
    (faults / "sitecustomize.py").write_text(FULL_DISK)
    (faults / "armed").touch()
    smtp = {
        "conn_type": "smtp",
        "host": "127.0.0.1",
        "port": inbox.port,
        "extra": {"disable_ssl": True, "disable_tls": True, "from_email": "lakescore@example.org"},
    }
    made = AirflowProject(
        workspace,
        {
            "AIRFLOW_CONN_SMTP_DEFAULT": json.dumps(smtp),
            "DEAD_HOOK": "json://127.0.0.1:9/",
            "FULL_DISK": str(faults / "armed"),
            "PYTHONPATH": f"{faults}{os.pathsep}{ROOT}",
            **database,
            **collector.environment,
            "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(
                {"type": "file", "log_file_path": str(lineage(workspace)), "append": True}
            ),
        },
    )
    (made.dags / "consumer.py").write_text(CONSUMER)
    for ds in [*DAYS, YESTERDAY, RETRIED]:
        workspace.day(300, ds)
    for ds in (KILLED, ORPHANED):
        workspace.day(MANY, ds)
    workspace.day({"id": ["x", "y"], "a": [None, 1.0], "b": [1.0, 2.0]}, STOPPED)
    made.airflow("db", "migrate")
    made.start("api-server", "scheduler", "dag-processor", "triggerer")
    try:
        yield made
    finally:
        made.stop()


@dataclass
class Nights:
    """Airflow with the runs that were asked for at the start, by what is to become of them."""

    project: AirflowProject
    mail: Inbox
    collector: Collector
    runs: dict[str, str]
    killers: list[threading.Thread]

    @property
    def lake(self) -> Path:
        return self.project.workspace.lake

    def holds(self, ds: str, rows: int) -> bool:
        """Tells whether a day has so many predictions, each of a key of its own."""
        query = f"SELECT count(*) AS n, count(DISTINCT id) AS ids FROM predictions WHERE ds = '{ds}'"
        return self.project.workspace.stored(query) == [{"n": rows, "ids": rows}]

    def clear(self, run_id: str, task: str, *, downstream: bool) -> None:
        body = {
            "dry_run": False,
            "dag_run_id": run_id,
            "only_failed": False,
            "reset_dag_runs": True,
            "task_ids": [task],
            "include_downstream": downstream,
        }
        self.project.call("POST", "/api/v2/dags/toy/clearTaskInstances", body)
        wait(lambda: self.project.runs()[run_id] in {"queued", "running"}, 20)

    def cli(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", *arguments],
            env=self.project.environment(),
            cwd=self.project.workspace.root,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done.stdout


def lineage(workspace: Workspace) -> Path:
    return workspace.root / "lineage.jsonl"


def processes(words: str) -> list[int]:
    """Returns the processes whose command line has these words."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if words.encode() in path.read_bytes().replace(b"\0", b" "):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def stages_at_work(lake: Path) -> list[int]:
    return [pid for pid in processes("pipeline stage") if pid in processes(str(lake))]


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def kill_in_mid_score(lake: Path, ds: str, whose: str) -> None:
    """Kills the process that scores a day, or the Airflow task above it, once it has begun to write."""
    words = f"pipeline stage score --date {ds}"
    wait(lambda: processes(words) and list(lake.glob(f".staging/**/ds={ds}/**/*scored*")), 400)
    (pid,) = processes(words)
    os.kill(pid if whose == "stage" else parent(pid), signal.SIGKILL)


def begin(project: AirflowProject, mail: Inbox, collector: Collector) -> Nights:
    """Asks for many runs at once, so that their waits overlap."""
    wait(project.runs, 240, lambda: "no scheduled run")
    (scheduled,) = project.runs()
    runs = {"scheduled": scheduled, "waits": project.trigger("waits", conf={"date": WAITED})}
    for ds in (STOPPED, RETRIED, KILLED, ORPHANED):
        runs[ds] = project.trigger(conf={"date": ds})
    killers = [
        threading.Thread(target=kill_in_mid_score, args=(project.workspace.lake, ds, whose))
        for ds, whose in ((KILLED, "stage"), (ORPHANED, "task"))
    ]
    for killer in killers:
        killer.start()
    return Nights(project, mail, collector, runs, killers)


def scheduled_run_is_about_the_last_day_that_is_over(nights: Nights) -> None:
    assert nights.project.finished(nights.runs["scheduled"]) == "success"
    assert nights.holds(YESTERDAY, 300)
    assert list(nights.lake.glob(f"predictions/job=toy/ds={YESTERDAY}/*/_SUCCESS"))


def asset_event_starts_a_dag_downstream_with_the_ledger(nights: Nights) -> None:
    wait(lambda: nights.project.runs("consumer"), 60)
    extra = nights.project.call("GET", "/api/v2/assets/events?limit=50")["asset_events"][0]["extra"]
    assert extra["ledger"]["candidates"] == extra["ledger"]["scored"] > 0
    assert nights.project.finished(next(iter(nights.project.runs("consumer"))), "consumer") == "success"


def bad_day_fails_without_a_retry_and_somebody_is_told(nights: Nights) -> None:
    assert nights.project.finished(nights.runs[STOPPED]) == "failed"
    tasks = nights.project.tasks(nights.runs[STOPPED])
    assert (tasks["score"]["state"], tasks["score"]["try_number"]) == ("failed", 1)
    assert (tasks["commit"]["state"], tasks["notify"]["state"]) == ("upstream_failed", "success")
    (text,) = nights.mail.about(f"toy {STOPPED}: stopped because of bad data")
    assert "NULL" in text
    (written,) = nights.lake.glob(f"notifications/job=toy/ds={STOPPED}/*.json")
    deliveries = {each["channel"]: each["error"] for each in json.loads(written.read_text())["deliveries"]}
    assert deliveries["mail"] is None
    assert "did not answer" in deliveries["DEAD_HOOK"]


def full_disk_at_the_commit_is_retried_without_scoring_again(nights: Nights) -> None:
    assert nights.project.finished(nights.runs[RETRIED]) == "success"
    tasks = nights.project.tasks(nights.runs[RETRIED])
    assert (tasks["score"]["try_number"], tasks["commit"]["try_number"]) == (1, 2)
    assert nights.holds(RETRIED, 300)


def stage_or_task_killed_in_mid_score_is_retried_and_no_row_is_there_twice(nights: Nights) -> None:
    for killer in nights.killers:
        killer.join(400)
    for ds in (KILLED, ORPHANED):
        assert nights.project.finished(nights.runs[ds]) == "success", ds
        assert nights.project.tasks(nights.runs[ds])["score"]["try_number"] == 2, ds
        assert nights.holds(ds, MANY), ds


def waiting_holds_no_slot_is_told_when_late_and_ends_with_the_data(nights: Nights) -> None:
    run_id = nights.runs["waits"]
    wait(lambda: nights.project.tasks(run_id, "waits")["wait_for_input"]["state"] == "up_for_reschedule", 120)
    wait(lambda: nights.mail.about(f"waits {WAITED}: late"), 120)
    nights.project.workspace.day(20, WAITED)
    assert nights.project.finished(run_id, "waits") == "success"


def run_by_hand_is_about_yesterday_or_the_day_asked_for(nights: Nights) -> None:
    conf = json.dumps({"date": DAYS[0]})
    nights.project.airflow("dags", "trigger", "toy", "--conf", conf, "--run-id", "by-hand")
    without = nights.project.trigger(logical_date=datetime.now(UTC).isoformat())  # as the UI fills it in
    assert nights.project.finished(without) == nights.project.finished("by-hand") == "success"
    assert nights.holds(YESTERDAY, 300)
    assert nights.holds(DAYS[0], 300)


def failed_run_goes_on_when_mended_and_cleared(nights: Nights) -> None:
    nights.project.workspace.day({"id": ["x", "y"], "a": [2.0, 1.0], "b": [1.0, 2.0]}, STOPPED)
    nights.clear(nights.runs[STOPPED], "score", downstream=True)
    assert nights.project.finished(nights.runs[STOPPED]) == "success"
    assert nights.holds(STOPPED, 2)


def cleared_task_of_a_complete_run_does_nothing_twice(nights: Nights) -> None:
    nights.clear(nights.runs[RETRIED], "score", downstream=False)
    assert nights.project.finished(nights.runs[RETRIED]) == "success"
    assert nights.holds(RETRIED, 300)


def backfill_brings_five_days_the_last_one_too(nights: Nights) -> None:
    nights.cli("backfill", "--airflow", "--from", DAYS[0], "--to", DAYS[-1], "--job", "toy")
    wait(lambda: sum(run_id.startswith("backfill") for run_id in nights.project.runs()) == len(DAYS), 120)
    wait(lambda: set(nights.project.runs().values()) == {"success"}, 400, lambda: str(nights.project.runs()))
    assert all(nights.holds(ds, 300) for ds in DAYS)


def lake_is_in_order_and_no_process_is_left(nights: Nights) -> None:
    assert json.loads(nights.cli("verify", "--json")) == []
    assert not stages_at_work(nights.lake)


def figures_reach_an_opentelemetry_collector(nights: Nights) -> None:
    metrics = nights.collector.metrics()
    assert 300 in metrics["airflow.lakescore.rows.scored"]
    assert max(metrics["airflow.lakescore.rows_per_s"]) > 0
    assert any(name.startswith("airflow.ti") for name in metrics)
    assert nights.collector.spans()


def lineage_has_an_event_of_each_task(nights: Nights) -> None:
    text = lineage(nights.project.workspace).read_text()
    names = {json.loads(line)["job"]["name"] for line in text.splitlines()}
    assert {"toy.plan", "toy.score", "toy.commit"} <= names


NIGHTS = (
    scheduled_run_is_about_the_last_day_that_is_over,
    asset_event_starts_a_dag_downstream_with_the_ledger,
    bad_day_fails_without_a_retry_and_somebody_is_told,
    full_disk_at_the_commit_is_retried_without_scoring_again,
    stage_or_task_killed_in_mid_score_is_retried_and_no_row_is_there_twice,
    waiting_holds_no_slot_is_told_when_late_and_ends_with_the_data,
    run_by_hand_is_about_yesterday_or_the_day_asked_for,
    failed_run_goes_on_when_mended_and_cleared,
    cleared_task_of_a_complete_run_does_nothing_twice,
    backfill_brings_five_days_the_last_one_too,
    lake_is_in_order_and_no_process_is_left,
    figures_reach_an_opentelemetry_collector,
    lineage_has_an_event_of_each_task,
)


def test_scheduler_nights_end_with_each_row_once(
    project: AirflowProject, inbox: Inbox, collector: Collector, subtests: pytest.Subtests
) -> None:
    """One Airflow for all of them: it takes half a minute to start. Their order is that of `NIGHTS`."""
    nights = begin(project, inbox, collector)
    for night in NIGHTS:
        with subtests.test(night.__name__):
            night(nights)
