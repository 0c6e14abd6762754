"""A real, complete Airflow, started once for all scenarios: runs that succeed, fail, are retried, and are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.errors import TransientError
from tests.orchestration.airflow_project import ROOT, AirflowProject, wait
from tests.orchestration.collector import Collector, collecting
from tests.orchestration.postgres import postgres
from tests.orchestration.receivers import Inbox, mail_server
from tests.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

DAYS = [f"2026-01-0{number}" for number in range(1, 6)]
STOPPED, RETRIED, KILLED, ORPHANED, WAITED = (f"2026-02-0{number}" for number in range(1, 6))
YESTERDAY = (datetime.now(UTC) - timedelta(days=1)).date().isoformat()
MANY = 300_000
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
"""Lets the first commit of one day fail with a full disk. Part of the `sitecustomize.py` of all processes."""

HELD = f"""
import threading, time
for ds in {(KILLED, ORPHANED)}:
    hold = pathlib.Path(os.environ.get("HELD", ""), ds)
    if {{"stage", "score", ds}} <= set(sys.orig_argv) and hold.is_file():
        import pyarrow.parquet
        write = pyarrow.parquet.ParquetWriter.write_table
        def write_and_wait(self, *arguments, **named):
            write(self, *arguments, **named)
            new = hold.with_suffix(f".{{threading.get_ident()}}")  # several workers may come here
            new.write_text(str(os.getpid()))
            new.rename(hold.with_suffix(".pid"))
            while hold.is_file():
                time.sleep(0.05)
        pyarrow.parquet.ParquetWriter.write_table = write_and_wait
        break
"""
"""Stops a process that scores, once it has written its first rows, until its hold is removed: then it can be killed.
Part of the `sitecustomize.py` of all processes."""


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
    """Airflow's settings for its database: SQLite, or with LAKESCORE_TEST_POSTGRES a separate PostgreSQL."""
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
    folder = workspace.job(
        policy='null_features = "fail"', schedule='cron = "0 0 * * *"\nretry_delay = "1s"\nstart_date = 2026-01-01'
    )
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
    (faults / "sitecustomize.py").write_text(FULL_DISK + HELD)
    for name in ("armed", KILLED, ORPHANED):
        (faults / name).touch()
    made = AirflowProject(
        workspace,
        {
            "AIRFLOW_CONN_SMTP_DEFAULT": inbox.connection,
            "DEAD_HOOK": "json://127.0.0.1:9/",
            "FULL_DISK": str(faults / "armed"),
            "HELD": str(faults),
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
    """Airflow and the runs requested at the start; `runs` holds their ids, by scenario."""

    project: AirflowProject
    mail: Inbox
    collector: Collector
    runs: dict[str, str]
    killers: list[Future[None]]

    @property
    def lake(self) -> Path:
        return self.project.workspace.lake

    def holds(self, ds: str, rows: int) -> bool:
        """Tells whether a day has exactly `rows` predictions, one per key."""
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

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pipeline", *arguments],
            env=self.project.environment(),
            cwd=self.project.workspace.root,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

    def cli(self, *arguments: str) -> str:
        done = self.call(*arguments)
        assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def request_backfill(self, *arguments: str) -> None:
        """Requests a backfill; where SQLite was locked, does what the error says: cancel it if it exists, retry."""
        for _ in range(10):
            done = self.call("backfill", "--airflow", *arguments)
            if done.returncode == 0:
                return
            assert done.returncode == TransientError.exit_code, f"{arguments}\n{done.stdout}\n{done.stderr}"
            assert "database is locked" in done.stderr
            for each in self.project.call("GET", "/api/v2/backfills?dag_id=toy")["backfills"]:
                if each["completed_at"] is None:
                    self.project.call("PUT", f"/api/v2/backfills/{each['id']}/cancel")
        raise AssertionError("the database was locked each time")


def lineage(workspace: Workspace) -> Path:
    return workspace.root / "lineage.jsonl"


def processes(words: str) -> list[int]:
    """Returns the ids of the processes whose command line contains `words`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if words.encode() in path.read_bytes().replace(b"\0", b" "):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def running_stages(lake: Path) -> list[int]:
    return [pid for pid in processes("pipeline stage") if pid in processes(str(lake))]


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def kill_while_scoring(hold: Path, whose: str) -> None:
    """Kills the process that scores a day, or its parent, the Airflow task, once it has written its first rows."""
    written = hold.with_suffix(".pid")
    wait(written.is_file, 600, lambda: f"{written} is missing: no process has scored that day")
    pid = int(written.read_text())
    os.kill(pid if whose == "stage" else parent(pid), signal.SIGKILL)
    hold.unlink()


def begin(project: AirflowProject, mail: Inbox, collector: Collector) -> Nights:
    """Requests all runs at once, so that their waiting times overlap."""
    wait(project.runs, 240, lambda: "no scheduled run")
    (scheduled,) = project.runs()
    runs = {"scheduled": scheduled, "waits": project.trigger("waits", conf={"date": WAITED})}
    for ds in (STOPPED, RETRIED, KILLED, ORPHANED):
        runs[ds] = project.trigger(conf={"date": ds})
    pool = ThreadPoolExecutor()
    killers = [
        pool.submit(kill_while_scoring, project.workspace.root / "faults" / ds, whose)
        for ds, whose in ((KILLED, "stage"), (ORPHANED, "task"))
    ]
    pool.shutdown(wait=False)
    return Nights(project, mail, collector, runs, killers)


def scheduled_run_processes_the_last_completed_day(nights: Nights) -> None:
    assert nights.project.finished(nights.runs["scheduled"]) == "success"
    assert nights.holds(YESTERDAY, 300)
    assert list(nights.lake.glob(f"predictions/job=toy/ds={YESTERDAY}/*/_SUCCESS"))


def asset_event_starts_a_dag_downstream_with_the_ledger(nights: Nights) -> None:
    wait(lambda: nights.project.runs("consumer"), 60)
    extra = nights.project.call("GET", "/api/v2/assets/events?limit=50")["asset_events"][0]["extra"]
    assert extra["ledger"]["candidates"] == extra["ledger"]["scored"] > 0
    assert nights.project.finished(next(iter(nights.project.runs("consumer"))), "consumer") == "success"


def bad_day_fails_without_a_retry_and_sends_messages(nights: Nights) -> None:
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


def stage_or_task_killed_while_scoring_is_retried_and_stores_no_row_twice(nights: Nights) -> None:
    for killer in nights.killers:
        killer.result()
    for ds in (KILLED, ORPHANED):
        assert nights.project.finished(nights.runs[ds]) == "success", ds
        assert nights.project.tasks(nights.runs[ds])["score"]["try_number"] == 2, ds
        assert nights.holds(ds, MANY), ds


def waiting_holds_no_slot_is_reported_when_late_and_ends_with_the_data(nights: Nights) -> None:
    run_id = nights.runs["waits"]
    wait(lambda: nights.project.tasks(run_id, "waits")["wait_for_input"]["state"] == "up_for_reschedule", 120)
    wait(lambda: nights.mail.about(f"waits {WAITED}: late"), 120)
    nights.project.workspace.day(20, WAITED)
    assert nights.project.finished(run_id, "waits") == "success"


def manual_run_processes_yesterday_or_the_requested_day(nights: Nights) -> None:
    conf = json.dumps({"date": DAYS[0]})
    nights.project.airflow("dags", "trigger", "toy", "--conf", conf, "--run-id", "by-hand")
    without = nights.project.trigger(logical_date=datetime.now(UTC).isoformat())  # as the UI fills it in
    assert nights.project.finished(without) == nights.project.finished("by-hand") == "success"
    assert nights.holds(YESTERDAY, 300)
    assert nights.holds(DAYS[0], 300)


def failed_run_resumes_when_fixed_and_cleared(nights: Nights) -> None:
    nights.project.workspace.day({"id": ["x", "y"], "a": [2.0, 1.0], "b": [1.0, 2.0]}, STOPPED)
    nights.clear(nights.runs[STOPPED], "score", downstream=True)
    assert nights.project.finished(nights.runs[STOPPED]) == "success"
    assert nights.holds(STOPPED, 2)


def cleared_task_of_a_complete_run_repeats_nothing(nights: Nights) -> None:
    nights.clear(nights.runs[RETRIED], "score", downstream=False)
    assert nights.project.finished(nights.runs[RETRIED]) == "success"
    assert nights.holds(RETRIED, 300)


def backfill_includes_the_last_day(nights: Nights) -> None:
    nights.request_backfill("--from", DAYS[0], "--to", DAYS[-1], "--job", "toy")
    wait(lambda: sum(run_id.startswith("backfill") for run_id in nights.project.runs()) == len(DAYS), 120)
    wait(lambda: set(nights.project.runs().values()) == {"success"}, 400, lambda: str(nights.project.runs()))
    assert all(nights.holds(ds, 300) for ds in DAYS)


def lake_has_no_problems_and_no_process_is_left(nights: Nights) -> None:
    assert json.loads(nights.cli("verify", "--json")) == []
    assert not running_stages(nights.lake)


def figures_reach_an_opentelemetry_collector(nights: Nights) -> None:
    metrics = nights.collector.metrics()
    assert 300 in metrics["airflow.lakescore.rows.scored"]
    assert max(metrics["airflow.lakescore.rows_per_s"]) > 0
    assert any(name.startswith("airflow.ti") for name in metrics)
    assert nights.collector.spans()


def lineage_has_an_event_per_task(nights: Nights) -> None:
    text = lineage(nights.project.workspace).read_text()
    names = {json.loads(line)["job"]["name"] for line in text.splitlines()}
    assert {"toy.plan", "toy.score", "toy.commit"} <= names


NIGHTS = (
    scheduled_run_processes_the_last_completed_day,
    asset_event_starts_a_dag_downstream_with_the_ledger,
    bad_day_fails_without_a_retry_and_sends_messages,
    full_disk_at_the_commit_is_retried_without_scoring_again,
    stage_or_task_killed_while_scoring_is_retried_and_stores_no_row_twice,
    waiting_holds_no_slot_is_reported_when_late_and_ends_with_the_data,
    manual_run_processes_yesterday_or_the_requested_day,
    failed_run_resumes_when_fixed_and_cleared,
    cleared_task_of_a_complete_run_repeats_nothing,
    backfill_includes_the_last_day,
    lake_has_no_problems_and_no_process_is_left,
    figures_reach_an_opentelemetry_collector,
    lineage_has_an_event_per_task,
)


def test_scheduler_nights_end_with_each_row_once(
    project: AirflowProject, inbox: Inbox, collector: Collector, subtests: pytest.Subtests
) -> None:
    """One Airflow for all scenarios, since it takes half a minute to start. They run in the order of `NIGHTS`."""
    nights = begin(project, inbox, collector)
    for night in NIGHTS:
        with subtests.test(night.__name__):
            night(nights)
