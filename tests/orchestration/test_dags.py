"""The DAGs that Airflow builds from the DAG file, and complete DAG runs in one process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from redis import Redis

from pipeline.job.loading import find_job
from pipeline.orchestration import tasks
from pipeline.publish.delivery import DeliveryStore
from pipeline.publish.redis_reader import columns_of, read
from tests.orchestration.airflow_project import BIN, ROOT, AirflowProject, wait
from tests.orchestration.receivers import mail_server, web_hook
from tests.redis_server import free_port, serve
from tests.stages import STAGES
from tests.workspace import DAY, Workspace

STRUCTURE = """
import json
import airflow.sdk
from airflow.dag_processing.dagbag import DagBag
from pipeline.orchestration.tasks import StageFailed, StageRefused
bag = DagBag()
guarded = lambda dag: [task for task in dag.tasks if task.retry_policy]
dags = {
    dag.dag_id: {
        "tasks": {task.task_id: sorted(task.downstream_task_ids) for task in dag.tasks},
        "retries": sorted({task.retries for task in dag.tasks}),
        "refused": sorted({str(task.retry_policy.evaluate(StageRefused(), 1, 3).action) for task in guarded(dag)}),
        "failed": sorted({str(task.retry_policy.evaluate(StageFailed(), 1, 3).action) for task in guarded(dag)}),
        "paused": dag.is_paused_upon_creation,
        "owner": dag.owner, "tags": sorted(dag.tags), "catchup": dag.catchup, "doc": dag.doc_md or "",
        "schedule": dag.timetable.expression, "active": dag.max_active_runs, "deadline": bool(dag.deadline),
        "teardowns": [task.task_id for task in dag.tasks if task.is_teardown],
    }
    for dag in bag.dags.values()
}
heavy = sorted({"torch", "numpy", "pyarrow", "duckdb", "pandas"} & set(__import__("sys").modules))
answer({"errors": bag.import_errors, "dags": dags, "heavy": heavy})
"""

RUN = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
dag = DagBag().dags["toy"]
ended = []
for conf in json.loads(sys.argv[1]):
    run = dag.test(run_conf=conf)
    ended.append({"state": str(run.state), "tasks": {ti.task_id: str(ti.state) for ti in run.get_task_instances()}})
answer(ended)
"""

LINKS = """
from airflow.dag_processing.dagbag import DagBag
from airflow.models import DagRun
from airflow.serialization.serialized_objects import DagSerialization
from airflow.utils.session import create_session
dag = DagSerialization.from_dict(DagSerialization.to_dict(DagBag().dags["toy"]))  # as Airflow's web server knows it
with create_session() as session:
    (run,) = session.query(DagRun)
    answer({ti.task_id: dag.get_task(ti.task_id).get_extra_links(ti, "Page of the run")
        for ti in run.get_task_instances() if "Page of the run" in dag.get_task(ti.task_id).extra_links})
"""


@pytest.fixture
def project(workspace: Workspace) -> AirflowProject:
    return AirflowProject(workspace)


OFF = "".join(f"[{name}]\nenabled = false\n" for name in ("quality", "drift", "report"))
"""Tables of job.toml that switch off all optional stages."""


@pytest.mark.slow
def test_dag_file_makes_one_dag_per_job_with_the_stages_in_order(project: AirflowProject) -> None:
    project.workspace.job("late", policy='missing_input = "wait"', schedule=(
        'lookback_days = 3\ncron = "30 4 * * *"\ntimezone = "Europe/Berlin"\nretries = 5\nowner = "night"\n'
        'tags = ["churn"]\nin_order = true\ndeadline = "6h"\nsince_last_run = true'
    ))  # fmt: skip
    project.workspace.job("beside", schedule="since_last_run = true")
    bare = project.workspace.job("bare") / "job.toml"
    bare.write_text(bare.read_text() + OFF)
    project.extra[tasks.PAUSED] = "bare,another"
    found = project.python(STRUCTURE)
    assert found["errors"] == {}
    assert found["heavy"] == []
    assert sorted(found["dags"]) == ["bare", "beside", "late", "toy"]
    chain = ["check", *STAGES]
    toy, late, beside = (found["dags"][name] for name in ("toy", "late", "beside"))
    assert toy["tasks"] == {
        "day": ["check"],
        **{name: [after] for name, after in zip(chain, [*chain[1:], "notify"], strict=True)},
        "notify": [],
    }
    assert list(found["dags"]["bare"]["tasks"]) == ["day", "check", "plan", "score", "commit", "notify"]
    assert toy["teardowns"] == ["notify"]
    assert toy["retries"] == [1, 2]
    assert (toy["refused"], toy["failed"], toy["paused"]) == (["RetryAction.FAIL"], ["RetryAction.DEFAULT"], None)
    assert found["dags"]["bare"]["paused"] is True
    assert (toy["owner"], toy["catchup"], toy["active"], toy["deadline"]) == ("lakescore", False, 4, False)
    assert "clear the red task" in toy["doc"]
    assert late["tasks"]["day"] == ["check", "earlier", "late_rows", "wait_for_input"]
    assert late["tasks"]["wait_for_input"] == ["earlier"]
    assert late["tasks"]["earlier"] == ["check"]
    assert beside["tasks"]["day"] == ["check", "earlier"]
    assert beside["tasks"]["earlier"] == ["notify"]
    assert late["tasks"]["report"] == ["late_rows"]
    assert (late["owner"], late["active"], late["deadline"]) == ("night", 1, True)
    assert late["tags"] == ["churn", "lakescore"]
    assert late["schedule"] == "30 4 * * *"


@pytest.mark.slow
def test_dag_file_with_one_broken_job_keeps_the_others(project: AirflowProject) -> None:
    (project.workspace.job("broken") / "job.toml").write_text("[model]\nnmae = 'x'\n")
    found = project.python(STRUCTURE)
    assert "retries" in found["dags"]["toy"]
    assert list(found["dags"]["broken"]["tasks"]) == ["job_cannot_be_read"]
    assert "did you mean 'name'" in found["dags"]["broken"]["doc"]


@pytest.mark.slow
@pytest.mark.parametrize(("off", "stages"), [("", STAGES), (OFF, ("plan", "score", "commit"))])
def test_dag_run_commits_and_notifies(project: AirflowProject, off: str, stages: tuple[str, ...]) -> None:
    """One complete run with `dag.test`; failures and scheduled runs are in test_scheduler.py."""
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


@pytest.mark.slow
def test_dag_run_reaches_every_target_once_and_tells_people_and_openlineage(project: AirflowProject) -> None:
    """Apprise is tried in the process of the stage, mail in Airflow's; a second run of the day repeats nothing."""
    workspace = project.workspace
    with (workspace.job() / "job.toml").open("a") as toml:
        toml.write(
            f'[[publish]]\nname = "spring"\nkind = "export"\nto = "{workspace.root}/drop"\ncolumns = ["id"]\n'
            'announce = { apprise = ["HOOK"], mail = ["marketing@example.org"], attach = true }\n'
            '[[publish]]\nname = "high"\nkind = "flags"\nscore = "prediction_proba"\nenter = 0.0\n'
            '[[publish]]\nname = "serving"\nkind = "redis"\ncolumns = ["prediction", "prediction_proba"]\n'
        )
    workspace.day(5)
    project.airflow("db", "migrate")
    events = workspace.root / "lineage.jsonl"
    with web_hook() as hook, mail_server() as inbox, serve() as server:
        transport = {"type": "file", "log_file_path": str(events), "append": True}
        project.extra |= {
            "HOOK": hook.url,
            "AIRFLOW_CONN_SMTP_DEFAULT": inbox.connection,
            "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(transport),
            "LAKESCORE_REDIS_URL": server.url,
        }
        (first,) = project.python(RUN, json.dumps([{"date": DAY}]))
        with Redis.from_url(server.url) as client:
            pointer, values = read(client, "toy:serving", ["u0", "u4"])
        delivered = DeliveryStore(workspace.context().lake).of("toy")
        (second,) = project.python(RUN, json.dumps([{"date": DAY}]))
        with Redis.from_url(server.url) as client:
            assert read(client, "toy:serving", ["u0", "u4"]) == (pointer, values)
    assert [run["state"] for run in (first, second)] == ["success", "success"]
    assert (first["tasks"]["publish"], first["tasks"]["announce"]) == ("success", "success")
    assert {each.target for each in delivered} == {"spring", "high", "serving"}
    assert {(each.state, each.rows, each.attempts) for each in delivered} == {("delivered", 5, 1)}
    assert DeliveryStore(workspace.context().lake).of("toy") == delivered
    (run,) = workspace.context().lake.records.of_day("toy", DAY)
    assert (pointer["ds"], pointer["run_id"], pointer["rows"]) == (DAY, run.run_id, "5")
    predicted = workspace.stored("SELECT id, prediction, prediction_proba FROM predictions")
    assert {key: columns_of(pointer, value) for key, value in values.items()} == {
        row.pop("id"): pytest.approx(row) for row in predicted if row["id"] in ("u0", "u4")
    }  # fmt: skip
    assert [each["title"] for each in hook.received] == [f"spring {DAY}: 5 rows"]
    (mail,) = inbox.about(f"spring {DAY}: 5 rows")
    assert '"u0"' in mail, "the file is attached"
    outputs = [
        output for line in events.read_text().splitlines() for output in json.loads(line).get("outputs", [])
        if "lakescore_delivery" in output.get("facets", {})
    ]  # fmt: skip
    assert {output["name"] for output in outputs} == {
        f"{workspace.root}/drop/toy/spring", f"{workspace.lake}/flags/job=toy", "toy:serving"
    }  # fmt: skip
    current = json.loads((workspace.root / "drop/toy/spring/current.json").read_text())
    facets = next(output["facets"] for output in outputs if output["name"].endswith("spring"))
    about = facets["lakescore_delivery"]
    assert facets["version"]["datasetVersion"] == current["digest"]
    assert (about["run_id"], about["period"], about["model_digest"]) == (
        current["run_id"], DAY, current["model_digest"]
    )  # fmt: skip


@pytest.mark.slow
def test_dag_run_with_a_dead_redis_turns_only_the_task_publish_red(project: AirflowProject) -> None:
    workspace = project.workspace
    with (workspace.job(schedule="retries = 0") / "job.toml").open("a") as toml:
        toml.write(OFF.replace("[report]\nenabled = false\n", ""))
        toml.write('[notify]\nconfidence_below = 0.0\nshare_above = 1.0\napprise = ["HOOK"]\n')
        toml.write('[[publish]]\nname = "serving"\nkind = "redis"\n')
    workspace.day(50)
    project.airflow("db", "migrate")
    with web_hook() as hook:
        project.extra |= {
            "HOOK": hook.url,
            "LAKESCORE_REDIS_URL": f"redis://127.0.0.1:{free_port()}",
            "LAKESCORE_PAGES": "https://lake.example.org/shop/",
        }
        (red,) = project.python(RUN, json.dumps([{"date": DAY}]))
    assert red["state"] == "failed"
    assert [name for name, state in red["tasks"].items() if state != "success"] == ["publish"]
    errors = [line for line in project.log.splitlines() if "[error " in line]
    assert "Task exited" in errors[-1]
    assert "publish: target serving: Redis cannot be reached" in errors[-1]
    assert "Traceback" not in project.log
    assert len(workspace.stored()) == 50
    (message,) = hook.received
    assert message["title"] == f"toy {DAY}: 50 rows scored, but not delivered"
    assert "Target serving (redis): failed: Redis cannot be reached" in message["message"]
    (page,) = (workspace.lake / "reports/job=toy").rglob("*.html")
    address = f"https://lake.example.org/shop/reports/job=toy/ds={DAY}/{page.name}"
    assert address in message["message"]
    found = project.python(LINKS)
    assert {task: link for task, link in found.items() if link} == dict.fromkeys(["publish", "report"], address)
    assert set(found) == {"check", *red["tasks"]} - {"day", "notify"}


@pytest.mark.slow
def test_dag_run_of_a_day_that_is_skipped_is_no_failure_and_looks_back(project: AirflowProject) -> None:
    workspace = project.workspace
    workspace.job(policy='missing_input = "skip"', schedule="lookback_days = 1")
    workspace.day(50)
    project.airflow("db", "migrate")
    (ended,) = project.python(RUN, json.dumps([{"date": "2026-01-02"}]))
    done = dict.fromkeys(["day", "late_rows", "notify"], "success")
    assert ended == {"state": "success", "tasks": {**dict.fromkeys(["check", *STAGES], "skipped"), **done}}
    assert len(workspace.stored()) == 50


@pytest.mark.slow
def test_dag_runs_over_a_folder_of_dated_csv_import_each_day_and_again_when_it_changes(project: AirflowProject) -> None:
    workspace = project.workspace
    folder = workspace.job(reads='format = "csv"', policy='missing_input = "skip"', schedule="lookback = 1")
    toml = folder / "job.toml"
    toml.write_text(toml.read_text().replace("unscored/ds={ds}/*.parquet", "unscored/{ds}/data.csv") + OFF)
    texts = {DAY: "id,a,b\nu1,1,2\nu2,2.5,3\n", "2026-01-02": "id,a,b\nu1,1,oops\n", "2026-01-03": "id,a,b\n"}
    for ds, text in texts.items():
        (workspace.lake / "unscored" / ds).mkdir(parents=True)
        (workspace.lake / "unscored" / ds / "data.csv").write_text(text)
    project.airflow("db", "migrate")
    ran = project.python(RUN, json.dumps([{"date": ds} for ds in (DAY, "2026-01-03", "2026-01-04")]))
    stages = ("plan", "score", "commit")
    assert ran[0] == {
        "state": "success",
        "tasks": dict.fromkeys(["day", "check", *stages, "late_rows", "notify"], "success"),
    }
    for empty, late in ((ran[1], "failed"), (ran[2], "success")):
        assert (empty["tasks"]["check"], empty["tasks"]["late_rows"]) == ("skipped", late)
    rows = "SELECT ds, id, revision FROM predictions ORDER BY ALL"
    assert [(str(row["ds"]), row["id"]) for row in workspace.stored(rows)] == [(DAY, "u1"), (DAY, "u2")]

    (workspace.lake / "unscored" / DAY / "data.csv").write_text("id,a,b\nu1,1,2\nu2,9,3\nu3,1,1\n")
    (workspace.lake / "unscored" / "2026-01-02" / "data.csv").write_text("id,a,b\nu1,1,2\n")
    (late,) = project.python(RUN, json.dumps([{"date": "2026-01-02"}]))
    assert late["state"] == "success"
    expected = [(DAY, "u1", 0), (DAY, "u2", 0), (DAY, "u2", 1), (DAY, "u3", 0), ("2026-01-02", "u1", 0)]
    assert [(str(row["ds"]), row["id"], row["revision"]) for row in workspace.stored(rows)] == expected


def test_dag_file_uses_no_removed_airflow_name() -> None:
    done = subprocess.run(
        [BIN / "ruff", "check", "--select", "AIR", "--preview", "--isolated", "dags", "pipeline"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


NIGHT = datetime(2026, 3, 10, 2, tzinfo=UTC)


def test_machine_relative_paths_start_beside_the_dags_folder(tmp_path: Path) -> None:
    found = tasks.machine(tmp_path / "dags")
    assert (found.lake, found.models) == (str(tmp_path / "lake"), str(tmp_path / "models"))
    assert found.jobs == tmp_path / "dags" / "jobs"


def test_machine_urls_and_limits_of_the_environment_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKESCORE_LAKE", "s3://bucket/lake")
    monkeypatch.setenv("LAKESCORE_MODELS", "s3://bucket/models")
    monkeypatch.setenv("LAKESCORE_DEVICE", "cpu")
    monkeypatch.setenv("LAKESCORE_MEMORY_LIMIT", "300MB")
    monkeypatch.setenv("LAKESCORE_THREADS", "3")
    found = tasks.machine(tmp_path / "dags")
    assert (found.lake, found.models) == ("s3://bucket/lake", "s3://bucket/models")
    assert (found.device, found.memory_limit, found.threads) == ("cpu", "300MB", 3)


@pytest.mark.slow
def test_late_message_goes_to_the_lake_of_the_dag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The jobs lie elsewhere, and the callback runs in a process with another environment."""
    elsewhere = Workspace(tmp_path / "elsewhere")
    elsewhere.job(schedule='deadline = "6h"')
    monkeypatch.setenv("LAKESCORE_JOBS", str(elsewhere.settings.jobs))
    settings = tasks.machine(tmp_path / "project" / "dags")
    alert = tasks.deadline(find_job("toy", settings), settings)
    monkeypatch.delenv("LAKESCORE_JOBS")
    monkeypatch.setenv("LAKESCORE_LAKE", str(tmp_path / "other"))
    run = {"dag_run_id": "night", "run_type": "manual", "conf": None}
    run |= {"logical_date": None, "run_after": NIGHT.isoformat()}
    tasks.late({"dag_run": run}, **json.loads(json.dumps(alert.callback.kwargs)))
    (path,) = tmp_path.rglob("notifications/**/*.json")
    assert path.is_relative_to(tmp_path / "project" / "lake")
    assert "Run night has not ended 6h after it was queued" in path.read_text()


def test_task_that_is_timed_out_ends_its_stage(tmp_path: Path) -> None:
    """The timeout is raised as in Airflow: in the main thread, by a signal handler."""

    def timed_out(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGUSR1, timed_out)
    script = "import os, signal; print(os.getpid(), flush=True); signal.pause()"
    output = tmp_path / "output"
    alarm = threading.Thread(target=kill_when_there, args=(output,))
    alarm.start()
    try:
        with output.open("w+") as file, pytest.raises(TimeoutError):
            tasks._supervised([sys.executable, "-c", script], dict(os.environ), file)
    finally:
        signal.signal(signal.SIGUSR1, before)
        alarm.join()
    with pytest.raises(ProcessLookupError):
        os.kill(int(output.read_text()), 0)


def test_stage_that_dies_after_its_result_is_told_as_killed() -> None:
    assert tasks._error_of(-9, '{"run_id": "x", "state": "scored"}', "score") == ("score: killed by signal 9", True)


def kill_when_there(output: Path) -> None:
    wait(lambda: output.exists() and output.read_text(), 30)
    os.kill(os.getpid(), signal.SIGUSR1)
