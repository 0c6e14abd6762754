"""The DAG of a job that a cluster scores: the same file, and the same tasks, as for any other job."""

from __future__ import annotations

import json

import pytest

from pipeline.care.verify import verify
from tests.engines.cluster import START_S, Cluster
from tests.engines.whole_day import job
from tests.orchestration.airflow_project import AirflowProject
from tests.orchestration.test_dags import RUN
from tests.stages import STAGES
from tests.workspace import DAY, Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ROWS = 5000


def test_dag_run_scores_a_day_on_a_cluster(workspace: Workspace, cluster: Cluster) -> None:
    project = AirflowProject(workspace, extra=cluster.environment)
    job(workspace, "spark").day(ROWS)
    project.airflow("db", "migrate", timeout_s=START_S)
    (ended,) = project.python(RUN, json.dumps([{"date": DAY}]), timeout_s=3 * START_S)
    assert ended["state"] == "success"
    assert {ended["tasks"][name] for name in STAGES} == {"success"}
    lake = workspace.context().lake
    (record,) = lake.records.of_day("toy", DAY)
    assert next(report.buckets for report in record.stages if report.stage == "score") == 8
    assert len(workspace.stored()) == ROWS
    assert not list(verify(lake))
