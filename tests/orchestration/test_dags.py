"""The DAGs: what Airflow makes of the DAG file, and whole runs of them in one process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline import orchestration, run
from pipeline.job import find_job
from tests.orchestration.airflow_project import BIN, ROOT, AirflowProject, wait
from tests.orchestration.receivers import web_hook
from tests.workspace import DAY, Workspace

STRUCTURE = """
import json, time
import airflow.sdk
from airflow.dag_processing.dagbag import DagBag
begun = time.perf_counter()
bag = DagBag()
dags = {
    dag.dag_id: {
        "tasks": {task.task_id: sorted(task.downstream_task_ids) for task in dag.tasks},
        "retries": sorted({task.retries for task in dag.tasks}),
        "owner": dag.owner, "tags": sorted(dag.tags), "catchup": dag.catchup, "doc": dag.doc_md or "",
        "schedule": dag.timetable.expression, "active": dag.max_active_runs, "deadline": bool(dag.deadline),
        "teardowns": [task.task_id for task in dag.tasks if task.is_teardown],
    }
    for dag in bag.dags.values()
}
heavy = sorted({"torch", "numpy", "pyarrow", "duckdb", "pandas"} & set(__import__("sys").modules))
print(json.dumps({"errors": bag.import_errors, "dags": dags, "seconds": time.perf_counter() - begun, "heavy": heavy}))
"""

RUN = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
dag = DagBag().dags["toy"]
ended = []
for conf in json.loads(sys.argv[1]):
    run = dag.test(run_conf=conf)
    ended.append({"state": str(run.state), "tasks": {ti.task_id: str(ti.state) for ti in run.get_task_instances()}})
print(json.dumps(ended))
"""


@pytest.fixture
def project(workspace: Workspace) -> AirflowProject:
    return AirflowProject(workspace)


OFF = "".join(f"[{name}]\nenabled = false\n" for name in ("quality", "drift", "report"))
"""All that a job can switch off."""


def test_dag_file_makes_one_dag_a_job_with_the_stages_in_order(project: AirflowProject) -> None:
    project.workspace.job("late", policy='missing_input = "wait"', schedule=(
        'lookback_days = 3\ncron = "30 4 * * *"\ntimezone = "Europe/Berlin"\nretries = 5\nowner = "night"\n'
        'tags = ["churn"]\nin_order = true\ndeadline = "6h"'
    ))  # fmt: skip
    bare = project.workspace.job("bare") / "job.toml"
    bare.write_text(bare.read_text() + OFF)
    found = project.python(STRUCTURE)
    assert found["errors"] == {}
    assert found["heavy"] == []
    assert found["seconds"] < 2.5  # 0.3 s where nothing else runs
    assert sorted(found["dags"]) == ["bare", "late", "toy"]
    chain = ["check", *run.STAGES]
    toy, late = found["dags"]["toy"], found["dags"]["late"]
    assert toy["tasks"] == {
        "day": ["check"],
        **{name: [after] for name, after in zip(chain, [*chain[1:], "notify"], strict=True)},
        "notify": [],
    }
    assert list(found["dags"]["bare"]["tasks"]) == ["day", "check", "plan", "score", "commit", "notify"]
    assert toy["teardowns"] == ["notify"]
    assert toy["retries"] == [1, 2]
    assert (toy["owner"], toy["catchup"], toy["active"], toy["deadline"]) == ("lakescore", False, 4, False)
    assert "clear the red task" in toy["doc"]
    assert late["tasks"]["day"] == ["check", "wait_for_input"]
    assert late["tasks"]["report"] == ["late_rows"]
    assert (late["owner"], late["active"], late["deadline"]) == ("night", 1, True)
    assert late["tags"] == ["churn", "lakescore"]
    assert late["schedule"] == "30 4 * * *"


def test_dag_file_with_one_broken_job_keeps_the_others(project: AirflowProject) -> None:
    (project.workspace.job("broken") / "job.toml").write_text("[model]\nnmae = 'x'\n")
    found = project.python(STRUCTURE)
    assert "retries" in found["dags"]["toy"]
    assert list(found["dags"]["broken"]["tasks"]) == ["job_cannot_be_read"]
    assert "did you mean 'name'" in found["dags"]["broken"]["doc"]


@pytest.mark.slow
@pytest.mark.parametrize(("off", "stages"), [("", run.STAGES), (OFF, ("plan", "score", "commit"))])
def test_dag_run_commits_and_tells(project: AirflowProject, off: str, stages: tuple[str, ...]) -> None:
    """One whole run, in Airflow's own process for tests; the bad days and the nights are in test_scheduler.py."""
    workspace = project.workspace
    with (workspace.job() / "job.toml").open("a") as toml:
        toml.write(off)
        toml.write('[notify]\non = ["success"]\nconfidence_below = 0.0\nshare_above = 1.0\n')
        toml.write('apprise = ["GOOD_HOOK", "DEAD_HOOK"]\n')
    workspace.day(50)
    project.airflow("db", "migrate")
    with web_hook() as hook:
        project.extra |= {"GOOD_HOOK": hook.url, "DEAD_HOOK": "json://127.0.0.1:9/"}
        (ended,) = project.python(RUN, json.dumps([{"date": DAY}]))
    assert ended == {
        "state": "success",
        "tasks": dict.fromkeys(["day", "check", *stages, "notify"], "success"),
    }
    assert len(workspace.stored()) == 50
    (message,) = hook.received
    assert (message["title"], message["type"]) == (f"toy {DAY}: 50 rows scored", "success")
    (written,) = (workspace.lake / "notifications").rglob("*.json")
    deliveries = json.loads(written.read_text())["deliveries"]
    assert [each["error"] is None for each in deliveries] == [True, False]


def test_dag_file_uses_no_removed_airflow_name() -> None:
    done = subprocess.run(
        [BIN / "ruff", "check", "--select", "AIR", "--preview", "--isolated", "dags", "pipeline"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


NIGHT = datetime(2026, 3, 10, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("zone", "params", "logical", "due", "expected"),
    [
        ("UTC", {}, NIGHT - timedelta(days=1), NIGHT, "2026-03-09"),  # scheduled
        ("UTC", {"date": None}, None, NIGHT, "2026-03-09"),  # manual, or by an asset
        ("UTC", {}, NIGHT + timedelta(hours=9), NIGHT + timedelta(hours=9), "2026-03-09"),  # the UI fills in "now"
        ("UTC", {"date": "2026-01-31"}, NIGHT, NIGHT, "2026-01-31"),
        ("UTC", {}, datetime(2026, 1, 5, 2, tzinfo=UTC), NIGHT, "2026-01-05"),  # a backfill, asked for later
        ("Asia/Tokyo", {}, None, datetime(2026, 3, 9, 16, tzinfo=UTC), "2026-03-09"),  # Tokyo has the 10th already
        ("America/New_York", {}, None, NIGHT, "2026-03-08"),  # New York still has the 9th
    ],
)
def test_which_day_is_the_last_that_was_over(
    workspace: Workspace, zone: str, params: dict[str, Any], logical: datetime | None, due: datetime, expected: str
) -> None:
    workspace.job(schedule=f'timezone = "{zone}"')
    job = find_job("toy", workspace.settings)
    assert orchestration.which_day(job, params, logical, due) == expected


def test_machine_relative_places_are_beside_the_dags_folder(tmp_path: Path) -> None:
    found = orchestration.machine(tmp_path / "dags")
    assert (found.lake, found.models) == (str(tmp_path / "lake"), str(tmp_path / "models"))
    assert found.jobs == tmp_path / "dags" / "jobs"


def test_task_that_is_timed_out_ends_its_stage(tmp_path: Path) -> None:
    """Airflow raises its time-out in the main thread, from a signal's handler; so does this."""

    def timed_out(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGUSR1, timed_out)
    script = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    output = tmp_path / "output"
    alarm = threading.Thread(target=kill_when_there, args=(output,))
    alarm.start()
    begun = time.monotonic()
    try:
        with output.open("w+") as file, pytest.raises(TimeoutError):
            orchestration._supervised([sys.executable, "-c", script], dict(os.environ), file)
    finally:
        signal.signal(signal.SIGUSR1, before)
        alarm.join()
    assert time.monotonic() - begun < 40  # it would end by itself after 60 s
    with pytest.raises(ProcessLookupError):
        os.kill(int(output.read_text()), 0)


def kill_when_there(output: Path) -> None:
    wait(lambda: output.exists() and output.read_text(), 30)
    os.kill(os.getpid(), signal.SIGUSR1)
