"""A real Airflow on SQLite, all its parts: days that go well, badly, and are killed."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiosmtpd.controller import Controller

from tests.orchestration.airflow_project import AirflowProject, free_port, wait
from tests.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

DAYS = [f"2026-01-0{number}" for number in range(1, 6)]
YESTERDAY = (datetime.now(UTC) - timedelta(days=1)).date().isoformat()


class Inbox:
    def __init__(self) -> None:
        self.messages: list[str] = []

    async def handle_DATA(self, _server: object, _session: object, envelope: object) -> str:  # noqa: N802 - aiosmtpd's
        self.messages.append(envelope.content.decode())  # type: ignore[attr-defined]
        return "250 OK"


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


@pytest.fixture
def inbox() -> Iterator[tuple[Inbox, int]]:
    found, port = Inbox(), free_port()
    controller = Controller(found, hostname="127.0.0.1", port=port)
    controller.start()
    yield found, port
    controller.stop()


@pytest.fixture
def project(workspace: Workspace, inbox: tuple[Inbox, int]) -> Iterator[AirflowProject]:
    folder = workspace.job(schedule='retry_delay = "1s"\nstart_date = 2026-01-01')
    toml = folder / "job.toml"
    toml.write_text(toml.read_text() + '\n[notify]\nmail = ["night@example.org"]\n')
    smtp = {
        "conn_type": "smtp",
        "host": "127.0.0.1",
        "port": inbox[1],
        "extra": {"disable_ssl": True, "disable_tls": True, "from_email": "lakescore@example.org"},
    }
    made = AirflowProject(workspace, {"AIRFLOW_CONN_SMTP_DEFAULT": json.dumps(smtp)})
    (made.dags / "consumer.py").write_text(CONSUMER)
    made.airflow("db", "migrate")
    made.start("api-server", "scheduler", "dag-processor", "triggerer")
    try:
        yield made
    finally:
        made.stop()


def children(name: str) -> list[int]:
    """Returns the processes whose command line has these words, and an environment of ours is not looked at."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if name.encode() in path.read_bytes().replace(b"\0", b" "):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def test_scheduler_nights_good_and_bad_end_with_each_row_once(
    project: AirflowProject, inbox: tuple[Inbox, int]
) -> None:
    workspace, lake = project.workspace, project.workspace.lake
    for ds in [*DAYS, YESTERDAY]:
        workspace.day(300, ds)
    wait(project.runs, 120, lambda: "no scheduled run")

    # Scheduled, by itself: catchup is off, so the last day that is over.
    (scheduled,) = project.runs()
    assert project.finished(scheduled) == "success"
    assert list(lake.glob(f"predictions/job=toy/ds={YESTERDAY}/*/_SUCCESS"))
    wait(lambda: project.runs("consumer"), 60, lambda: "the asset event started no consumer")

    # By hand: without a date it is the same day, which is harmless.
    again = project.trigger()
    assert project.finished(again) == "success"
    assert len(workspace.stored(f"FROM predictions WHERE ds = '{YESTERDAY}'")) == 300

    # A bad day fails at once, without retry, and somebody is told.
    bad = lake / "unscored/ds=2026-02-01/data.parquet"
    workspace.day(10, "2026-02-01")
    whole = bad.read_bytes()
    bad.write_bytes(b"PAR1 no parquet")
    failing = project.trigger(conf={"date": "2026-02-01"})
    assert project.finished(failing) == "failed"
    tasks = project.tasks(failing)
    assert tasks["check"]["try_number"] == 1
    assert tasks["notify"]["state"] == "success"
    assert len(inbox[0].messages) == 1
    assert "2026-02-01: failed" in inbox[0].messages[0]

    # Mended and cleared, the same run goes on.
    bad.write_bytes(whole)
    project.call("POST", "/api/v2/dags/toy/clearTaskInstances", {
        "dry_run": False, "dag_run_id": failing, "only_failed": False, "reset_dag_runs": True,
        "task_ids": ["check"], "include_downstream": True,
    })  # fmt: skip
    time.sleep(1)
    assert project.finished(failing) == "success"

    # Killed in mid-score: the retry takes over.
    workspace.day(3_000_000, "2026-02-02")
    killed = project.trigger(conf={"date": "2026-02-02"})
    wait(lambda: children("pipeline stage score --date 2026-02-02"), 120)
    os.kill(children("pipeline stage score --date 2026-02-02")[0], signal.SIGKILL)
    assert project.finished(killed) == "success"
    assert project.tasks(killed)["score"]["try_number"] == 2
    (counts,) = workspace.stored(
        "SELECT count(*) AS rows, count(DISTINCT id) AS ids FROM predictions WHERE ds = '2026-02-02'"
    )
    assert counts == {"rows": 3_000_000, "ids": 3_000_000}
    assert not children("pipeline stage")

    # Five days, the last one too.
    project.airflow(
        *("backfill", "create", "--dag-id", "toy", "--from-date", DAYS[0], "--to-date", f"{DAYS[-1]}T23:59"),
        *("--max-active-runs", "1"),
    )
    wait(
        lambda: all(list(lake.glob(f"predictions/job=toy/ds={ds}/*/_SUCCESS")) for ds in DAYS),
        200,
        lambda: str(project.runs()),
    )
    (twice,) = workspace.stored(
        "SELECT count(*) AS rows FROM (SELECT ds, id FROM predictions GROUP BY ALL HAVING count(*) > 1)"
    )
    assert twice == {"rows": 0}
