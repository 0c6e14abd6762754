"""Airflow on this machine: its environment, and what an empty folder gets."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.cli import options
from pipeline.context import Context
from pipeline.job.loading import find_job
from pipeline.orchestration import local_airflow, tasks
from pipeline.settings import Settings
from tests.s3 import BUCKET, S3Server
from tests.workspace import Workspace


@pytest.mark.parametrize("lake", ["there", "s3://bucket/lake"])
def test_environment_lake_option_wins_over_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lake: str
) -> None:
    monkeypatch.setenv("LAKESCORE_LAKE", str(tmp_path / "here"))
    monkeypatch.setenv("LAKESCORE_MODELS", "s3://bucket/models")
    monkeypatch.setenv("AIRFLOW__CORE__PARALLELISM", "7")
    found = local_airflow.environment(tmp_path, options.settings(lake))
    assert found["LAKESCORE_LAKE"] == (lake if "://" in lake else str(tmp_path / lake))
    assert found["LAKESCORE_MODELS"] == "s3://bucket/models"
    assert found["AIRFLOW__CORE__PARALLELISM"] == "7"


@pytest.mark.slow
def test_prepare_registers_the_demo_model_in_an_object_store(
    tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert s3.url
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(local_airflow, "DEMO_ROWS", 100)
    url = f"s3://{BUCKET}/{uuid.uuid4().hex}"
    machine = Settings(lake=str(tmp_path / "lake"), jobs=tmp_path / "dags" / "jobs", models=url)
    said: list[str] = []
    local_airflow.prepare(tmp_path, machine, said.append)
    ctx = Context.open(find_job("batch_inference", machine), machine)
    assert ctx.manifest().version == "v1"
    assert said[-1].startswith("trained")
    assert not (tmp_path / "s3:").exists()


def test_only_the_job_whose_first_run_could_only_fail_starts_paused(workspace: Workspace) -> None:
    last = workspace.context().job.last_due(datetime.now(UTC))
    for period in (last - 1, last):
        workspace.day(5, period.ds)
    workspace.job("waits", policy='missing_input = "wait"', reads="")
    workspace.job("lacks", model="unknown")
    said: list[str] = []
    assert local_airflow.jobs_to_pause(workspace.root, workspace.settings, said.append) == ["lacks"]
    assert said[0].startswith("lacks: no model is called 'unknown'")
    assert local_airflow.environment(workspace.root, workspace.settings, paused=["lacks"])[tasks.PAUSED] == "lacks"
    home = workspace.root / local_airflow.HOME
    home.mkdir()
    (home / "airflow.db").touch()
    assert local_airflow.jobs_to_pause(workspace.root, workspace.settings, said.append) == []


@pytest.mark.slow
def test_job_without_input_for_the_period_that_is_due_starts_paused(workspace: Workspace) -> None:
    workspace.day(5, "2026-01-31")
    said: list[str] = []
    assert local_airflow.jobs_to_pause(workspace.root, workspace.settings, said.append) == ["toy"]
    assert "toy: there is no input for " in said[0]
    assert "the newest is 2026-01-31, so its DAG starts paused" in said[0]
