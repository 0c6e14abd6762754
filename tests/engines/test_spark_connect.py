"""What every engine promises, by a Connect server on a real cluster; and a whole day.

These tests come after those of `test_spark.py`: once a process has been a client of Connect, it can be no driver.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.care.verify import verify
from pipeline.engines.contract import Engine
from pipeline.engines.spark import UNKNOWN_SLOTS, Spark
from tests.buckets.days import check_equal
from tests.engines.cluster import Cluster, connect_server
from tests.engines.contract import SparkContract
from tests.engines.whole_day import ROWS, job
from tests.workspace import DAY, Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def connected(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spark]:
    with connect_server(cluster, tmp_path_factory.mktemp("connect")) as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARK_CONNECT_MODE_ENABLED", "1")  # as pyspark sets it; later tests must not find it
        with Spark(address) as made:
            yield made


class TestConnect(SparkContract):
    slots = UNKNOWN_SLOTS

    @pytest.fixture
    def engine(self, connected: Spark) -> Engine:
        return connected


def test_day_by_connect_is_that_of_one_machine(
    workspace: Workspace, whole: Workspace, connected: Spark, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert connected.address is not None
    monkeypatch.setenv("LAKESCORE_SPARK", connected.address)
    job(workspace, "spark").day(ROWS)
    record = workspace.complete()
    assert next(report.buckets for report in record.stages if report.stage == "score") == 8
    assert record.ledger == whole.context().lake.records.of_day("toy", DAY)[0].ledger
    assert check_equal(workspace.lake, whole.lake) == ROWS
    assert not list(verify(workspace.context().lake))
