"""The examples of `lakescore init` in a real Airflow, which has the package from its wheel: a run of each job."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from pipeline.publish.redis_reader import columns_of, read
from tests.installed import Installed
from tests.orchestration.airflow_project import AirflowProject, wait
from tests.orchestration.receivers import Hook, web_hook
from tests.redis_server import RedisServer, serve
from tests.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

PERIODS = {"campaign": "2026-01-05", "recommendations": "2026-01-30", "risk": "2026-01-15"}


@pytest.fixture
def hook() -> Iterator[Hook]:
    with web_hook() as found:
        yield found


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with serve() as started:
        yield started


@pytest.fixture
def project(installed: Installed, hook: Hook, server: RedisServer, tmp_path: Path) -> Iterator[AirflowProject]:
    """One folder with the jobs, data and models of the examples, which tell `hook` and `server` what they deliver."""
    for name in PERIODS:
        folder = tmp_path / name
        installed.shell(f"lakescore init --example {name} {folder}", tmp_path)
        installed.shell(f"python {name}.py", folder)
        job = folder / "dags" / "jobs" / name / "job.toml"
        text = job.read_text("utf-8").replace("# announce", "announce")
        text, scheduled = re.subn(r'(?m)^cron = ".+"$', 'cron = ""', text)  # the last night has no data
        assert scheduled == 1
        job.write_text(text, "utf-8")
        for part in ("dags", "lake", "models"):
            shutil.copytree(folder / part, tmp_path / "all" / part, dirs_exist_ok=True)
    told = dict.fromkeys(("MARKETING", "FRAUD_DESK"), hook.url)
    told["LAKESCORE_REDIS_URL"] = server.url
    made = AirflowProject(Workspace(tmp_path / "all"), {"PYTHONPATH": str(installed.site), **told})
    made.airflow("db", "migrate")
    made.start("api-server", "scheduler", "dag-processor", "triggerer")
    try:
        yield made
    finally:
        made.stop()


def test_scheduler_runs_the_examples_and_the_receivers_are_told(
    project: AirflowProject, hook: Hook, server: RedisServer, tmp_path: Path
) -> None:
    wait(lambda: all(project.runs(name) is not None for name in PERIODS), 400, lambda: "the DAGs are not there")
    runs = {name: project.trigger(name, conf={"date": ds}) for name, ds in PERIODS.items()}
    for name, run_id in runs.items():
        assert project.finished(run_id, name, 1200) == "success", project.tasks(run_id, name)
    lake = project.workspace
    assert lake.ask("SELECT job, ds, state FROM runs WHERE ds < '2026-02' ORDER BY job") == [
        (name, ds, "complete") for name, ds in sorted(PERIODS.items())
    ]
    opted_out = set((tmp_path / "campaign" / "opted_out.csv").read_text().split()[1:])
    exported = {key for (key,) in lake.ask("SELECT key_text FROM exports")}
    assert len(exported) == 10_000
    assert not exported & opted_out
    assert lake.ask("SELECT count(*) FROM flags WHERE alert = 'sent'") == [(10,)]
    told = {each["title"].split(":")[0]: each["message"] for each in hook.received}
    assert sorted(told) == ["takeover 2026-01-15", "win_back 2026-01-05"]
    assert len(hook.received) == len(told), "each is told once"
    with redis.Redis.from_url(server.url) as client:
        pointer, values = read(client, "recommendations:shop", ["C00008"])
    assert pointer["ds"] == PERIODS["recommendations"]
    ((best,),) = lake.ask("SELECT top_items FROM predictions WHERE job = 'recommendations' AND key_text = 'C00008'")
    assert columns_of(pointer, values["C00008"])["items"] == best
    assert "https://files.example.com/drop/campaign/win_back/2026-01-05/" in told["win_back 2026-01-05"]
