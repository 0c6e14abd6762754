"""A lake and models in an object store, scored by a real cluster, of which an executor is killed."""

from __future__ import annotations

import dataclasses
import os
import signal
import uuid
from pathlib import Path

import pytest

from pipeline.care.verify import verify
from pipeline.errors import UsageError
from pipeline.flow import day as flow
from pipeline.model.remote import open_registry
from pipeline.storage import open_storage
from tests.buckets.days import check_equal
from tests.buckets.test_object_store import copied
from tests.engines.cluster import Cluster
from tests.engines.test_spark import executors
from tests.engines.whole_day import ROWS, job
from tests.s3 import BUCKET, S3Server
from tests.workspace import DAY, Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture
def remote(workspace: Workspace, s3: S3Server) -> Workspace:
    """A workspace whose lake, with a day, and models are in an object store."""
    url = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    day = job(workspace, "spark").day(ROWS)
    open_storage(f"{url}/lake").replace(f"unscored/ds={DAY}/{day.name}", day)
    checkpoint = workspace.root / "toy-v1.pt"
    registry = open_registry(f"{url}/models")
    registry.register(checkpoint, name="toy", version="v1", features=("a", "b"), alias="production")
    workspace.settings = dataclasses.replace(workspace.settings, lake=f"{url}/lake", models=f"{url}/models")
    return workspace


def of_executors(s3: S3Server, scratch: Path) -> dict[str, str]:
    """Returns settings of Spark that give executors the credentials, and a folder for what they download."""
    variables = {**s3.environment, "LAKESCORE_SCRATCH": str(scratch)}
    return {f"executorEnv.{name}": value for name, value in variables.items()}


def test_day_in_an_object_store_is_that_of_one_machine_though_an_executor_is_killed(
    remote: Workspace, whole: Workspace, cluster: Cluster, s3: S3Server, tmp_path: Path
) -> None:
    killed: list[int] = []

    def progress(stage: str, _done: int, _total: int) -> None:
        if stage == "score" and not killed:
            killed.extend(executors(cluster)[:1])
            os.kill(killed[0], signal.SIGKILL)

    with cluster.found(of_executors(s3, tmp_path / "scratch")):
        record = flow.run_day(dataclasses.replace(remote.context(), progress=progress), DAY).record
    assert killed
    assert record is not None
    assert record.ledger == whole.context().lake.records.of_day("toy", DAY)[0].ledger
    lake = remote.context().lake
    assert check_equal(copied(lake.storage, tmp_path / "copy"), whole.lake) == ROWS
    assert lake.storage.files(".staging") == []
    assert not list(verify(lake))


def test_executor_without_credentials_is_named(
    remote: Workspace, cluster: Cluster, s3: S3Server, tmp_path: Path
) -> None:
    wrong = {**of_executors(s3, tmp_path / "scratch"), "executorEnv.AWS_ENDPOINT_URL": f"{s3.url}/nowhere"}
    with cluster.found(wrong), pytest.raises(UsageError, match=r"cannot open the lake|does not see the lake") as raised:
        remote.run()
    assert "python" in str(raised.value.where)
