"""What every engine promises, on a real standalone cluster of Spark; and whole days there, also with failures."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.care.verify import verify
from pipeline.engines.contract import Engine
from pipeline.engines.spark import Spark
from pipeline.errors import UsageError
from pipeline.flow import day as flow
from tests.buckets.days import check_equal
from tests.engines import functions
from tests.engines.cluster import Cluster, until
from tests.engines.contract import SparkContract
from tests.engines.whole_day import ROWS, job
from tests.workspace import DAY, Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="class")
def classic(cluster: Cluster) -> Iterator[Spark]:
    """Of the class: an application takes all cores of the cluster, and another one waits."""
    with cluster.found(), Spark(cluster.master) as made:
        yield made


class TestClassic(SparkContract):
    @pytest.fixture
    def engine(self, classic: Spark) -> Engine:
        return classic

    def test_package_that_an_executor_lacks_is_named(self, engine: Engine) -> None:
        def absent(task: str) -> str:
            return task

        absent.__module__ = "nowhere_to_be_found"
        with pytest.raises(UsageError, match="lacks the package nowhere_to_be_found") as raised:
            list(engine.map(absent, ["a"]))
        assert sys.executable in str(raised.value.where)

    def test_package_is_imported_from_an_archive(self, engine: Engine, cluster: Cluster) -> None:
        (path,) = {found for _, found in engine.map(functions.where_the_package_is, ["a"])}
        assert path.endswith("lakescore.zip/pipeline/__init__.py")


def test_python_that_an_executor_lacks_is_named(
    workspace: Workspace, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    job(workspace, "spark").day(100)
    with cluster.found():
        monkeypatch.setenv("PYSPARK_PYTHON", "/nowhere/python3")
        with pytest.raises(UsageError, match="cannot run Python as this process does") as raised:
            workspace.run()
    assert "/nowhere/python3" in str(raised.value.got)


@pytest.mark.parametrize("name", ["processes", "spark"])
def test_driver_that_is_killed_leaves_finished_buckets_to_the_next_run(
    workspace: Workspace, whole: Workspace, cluster: Cluster, name: str
) -> None:
    job(workspace, name).day(ROWS)
    variables = {
        **cluster.environment,
        "PYTHONPATH": str(ROOT),
        "LAKESCORE_LAKE": workspace.settings.lake,
        "LAKESCORE_JOBS": str(workspace.settings.jobs),
        "LAKESCORE_MODELS": workspace.settings.models,
    }
    command = [sys.executable, "-m", "pipeline", "run", "--job", "toy", "--date", DAY]
    with (workspace.root / "log").open("wb") as log:
        driver = subprocess.Popen(
            command, env={**os.environ, **variables}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        until(lambda: list(workspace.lake.glob(".staging/**/result.json")) or driver.poll() is not None, "a bucket")
    finally:
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
    assert driver.returncode == -signal.SIGKILL, (workspace.root / "log").read_text()
    assert not workspace.lake.joinpath("predictions").exists()
    with cluster.found():
        record = workspace.complete()
    assert record.dispositions["adopted"] > 0
    assert record.dispositions["scored"] == ROWS
    assert check_equal(workspace.lake, whole.lake) == ROWS
    assert not list(verify(workspace.context().lake))


def test_day_on_a_cluster_is_that_of_one_machine_though_an_executor_is_killed(
    workspace: Workspace, whole: Workspace, cluster: Cluster
) -> None:
    job(workspace, "spark").day(ROWS)
    killed: list[int] = []

    def progress(stage: str, _done: int, _total: int) -> None:
        if stage == "score" and not killed:
            killed.extend(executors(cluster)[:1])
            os.kill(killed[0], signal.SIGKILL)

    with cluster.found():
        ctx = dataclasses.replace(workspace.context(), progress=progress)
        record = flow.run_day(ctx, DAY).record
    assert killed
    assert record is not None
    assert next(report.buckets for report in record.stages if report.stage == "score") == 8
    assert record.ledger == whole.context().lake.records.of_day("toy", DAY)[0].ledger
    assert check_equal(workspace.lake, whole.lake) == ROWS
    assert not list(verify(workspace.context().lake))


def executors(cluster: Cluster) -> list[int]:
    """Returns the process ids of the Java executors that the workers have started."""
    parents = {worker.pid for worker in cluster.workers}
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes()
            group = os.getsid(int(path.name))
        except (OSError, ValueError):
            continue
        if b"CoarseGrainedExecutorBackend" in command and group in parents:
            found.append(int(path.name))
    return found


def test_cluster_that_cannot_be_reached_or_is_not_named_is_an_error(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LAKESCORE_SPARK", raising=False)
    job(workspace, "spark").day(100)
    with pytest.raises(UsageError, match="no Spark cluster is named") as raised:
        workspace.run()
    assert "LAKESCORE_SPARK" in str(raised.value.next_step)
