"""Which job a command means, and the file of a project."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import JobError
from pipeline.job.loading import find_job
from pipeline.job.project import meant_job, read_project
from pipeline.settings import Settings
from tests.workspace import Workspace


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """An empty project, in which the test runs."""
    monkeypatch.chdir(tmp_path)
    return Workspace(tmp_path)


def test_meant_job_is_that_of_the_environment_then_of_the_project_then_the_default(made: Workspace) -> None:
    for name in ("churn", "batch_inference", "upsell"):
        made.job(name)
    assert meant_job(made.settings) == "batch_inference"
    Path("lakescore.toml").write_text('job = "upsell"\n')
    assert meant_job(made.settings) == "upsell"
    settings = Settings.from_environment({"LAKESCORE_JOB": "churn", "LAKESCORE_JOBS": str(made.settings.jobs)})
    assert find_job(None, settings).name == "churn"


def test_meant_job_is_the_only_one_of_a_project(made: Workspace) -> None:
    made.job("churn")
    assert find_job(None, made.settings).name == "churn"


def test_meant_job_of_several_is_asked_for_with_their_names(made: Workspace) -> None:
    made.job("churn")
    made.job("upsell")
    with pytest.raises(JobError, match=r"--job with one of churn, upsell\n +next +add --job churn, or"):
        meant_job(made.settings)


def test_job_of_the_installed_package_is_never_taken(made: Workspace) -> None:
    with pytest.raises(JobError, match=r"there is no job here(?s:.)*a folder that does not exist"):
        find_job(None, made.settings)
    with pytest.raises(JobError, match="no job is called 'batch_inference': there is none here"):
        find_job("batch_inference", made.settings)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('jobs = "x"\n', "unknown key `jobs`, did you mean 'job'"),
        ('job = "a b"\n', "`job`"),
        ("job = [\n", "cannot be read"),
    ],
)
def test_project_file_with_a_mistake_is_an_error_that_names_it(made: Workspace, text: str, said: str) -> None:
    Path("lakescore.toml").write_text(text)
    with pytest.raises(JobError, match=said) as refused:
        read_project()
    assert "lakescore.toml" in str(refused.value)
