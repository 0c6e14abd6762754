"""Whole runs in a process of their own, with settings of Spark that its Java reads when it starts."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.care.verify import verify
from pipeline.lake.layout import Lake
from pipeline.model.remote import open_registry
from pipeline.storage import open_storage
from tests.buckets.days import check_equal
from tests.buckets.test_object_store import copied
from tests.engines.cluster import Cluster, until
from tests.engines.test_spark import executors
from tests.engines.whole_day import ROWS, job
from tests.s3 import BUCKET, S3Server
from tests.workspace import DAY, Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ROOT = Path(__file__).parent.parent.parent
RUN = (sys.executable, "-m", "pipeline", "run", "--job", "toy", "--date", DAY)
RUN_STALLED = """
import runpy, sys
from pipeline.buckets import stage
from tests.engines import functions
stage.score_bucket = functions.score_and_stall_once
sys.argv = ["lakescore", *sys.argv[1:]]
runpy.run_module("pipeline", run_name="__main__")
"""


@contextmanager
def driver(
    workspace: Workspace,
    cluster: Cluster,
    command: tuple[str, ...] = RUN,
    settings: Mapping[str, object] | None = None,
    variables: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Starts a run. `settings` of Spark are without `spark.`, `variables` are those of the driver."""
    conf = workspace.root / "conf"
    conf.mkdir()
    before = (cluster.folder / "conf" / "spark-defaults.conf").read_text()
    lines = [f"spark.{name} {value}" for name, value in (settings or {}).items()]
    (conf / "spark-defaults.conf").write_text("\n".join([before, *lines]))
    environment = {
        **os.environ,
        **cluster.environment,
        **(variables or {}),
        "SPARK_CONF_DIR": str(conf),
        "PYTHONPATH": str(ROOT),
        "LAKESCORE_LAKE": workspace.settings.lake,
        "LAKESCORE_JOBS": str(workspace.settings.jobs),
        "LAKESCORE_MODELS": workspace.settings.models,
    }
    with (workspace.root / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def ended(process: subprocess.Popen[bytes], workspace: Workspace) -> tuple[int, str]:
    return process.wait(900), (workspace.root / "log").read_text()


def test_attempt_that_stalls_does_not_count_where_spark_starts_another(
    workspace: Workspace, whole: Workspace, cluster: Cluster
) -> None:
    """It would wait for an hour, so the run ends by the other attempt alone."""
    job(workspace, "spark").day(ROWS)
    command = (sys.executable, "-c", RUN_STALLED, *RUN[3:])
    settings = {"speculation": "true", "speculation.task.duration.threshold": "20s"}
    with driver(workspace, cluster, command, settings) as process:
        code, log = ended(process, workspace)
    assert code == 0, log
    assert (workspace.lake / "stalled").exists()
    assert check_equal(workspace.lake, whole.lake) == ROWS
    assert not list(verify(workspace.context().lake))


@pytest.fixture
def remote(workspace: Workspace, s3: S3Server) -> Workspace:
    """A workspace whose lake, with a day, and models are in an object store."""
    url = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    day = job(workspace, "spark").day(ROWS)
    open_storage(f"{url}/lake").replace(f"unscored/ds={DAY}/{day.name}", day)
    open_registry(f"{url}/models").register(
        workspace.root / "toy-v1.pt", name="toy", version="v1", features=("a", "b"), alias="production"
    )
    workspace.settings = dataclasses.replace(workspace.settings, lake=f"{url}/lake", models=f"{url}/models")
    return workspace


def finished(lake: Lake) -> bool:
    """Tells whether a task has left a bucket's result."""
    return any(file.path.endswith("/result.json") for file in lake.storage.files(".staging"))


def of_executors(s3: S3Server, scratch: Path) -> dict[str, str]:
    """Returns settings of Spark that give executors the credentials, and a folder for what they download."""
    variables = {**s3.environment, "LAKESCORE_SCRATCH": str(scratch)}
    return {f"executorEnv.{name}": value for name, value in variables.items()}


def test_day_in_an_object_store_is_that_of_one_machine_though_an_executor_is_killed(
    remote: Workspace, whole: Workspace, cluster: Cluster, s3: S3Server, tmp_path: Path
) -> None:
    lake = Lake.open(remote.settings.lake)
    with driver(remote, cluster, RUN, of_executors(s3, tmp_path / "scratch"), s3.environment) as process:
        until(lambda: finished(lake) or process.poll() is not None, "a bucket")
        os.kill(executors(cluster)[0], signal.SIGKILL)
        code, log = ended(process, remote)
    assert code == 0, log
    (record,) = lake.records.of_day("toy", DAY)
    assert record.ledger == whole.context().lake.records.of_day("toy", DAY)[0].ledger
    assert check_equal(copied(lake.storage, tmp_path / "copy"), whole.lake) == ROWS
    assert lake.storage.files(".staging") == []
    assert not list(verify(lake))


def test_executor_that_does_not_reach_the_object_store_is_named(
    remote: Workspace, cluster: Cluster, s3: S3Server, tmp_path: Path
) -> None:
    wrong = {**of_executors(s3, tmp_path / "scratch"), "executorEnv.AWS_ENDPOINT_URL": f"{s3.url}/nowhere"}
    with driver(remote, cluster, RUN, wrong, s3.environment) as process:
        code, log = ended(process, remote)
    assert code == 2, log
    assert "cannot open the lake" in log or "does not see the lake" in log
    assert "python" in log
