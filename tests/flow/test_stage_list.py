"""The table of stages is correct, and so is its copy in the documents."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.flow import stage_list
from pipeline.flow.stage_list import STAGES, Runs, Stage
from pipeline.job.config import Job
from pipeline.records import State
from tests import lakes
from tests.workspace import DAY, Workspace

ARCHITECTURE = Path(__file__).parent.parent.parent / "docs" / "architecture.md"
OFF = "[quality]\nenabled = false\n[drift]\nenabled = false\n[report]\nenabled = false\n"
PARAMETERS = {Runs.on_a_day: ["ctx", "ds"], Runs.on_the_lake: ["ctx"]}


def job_of(workspace: Workspace, more: str = "") -> Job:
    with (workspace.job() / "job.toml").open("a") as file:
        file.write(more)
    return workspace.context().job


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_stage_is_the_function_of_its_name_with_the_parameters_of_its_time(stage: Stage) -> None:
    function = stage.function()
    needed = [each.name for each in inspect.signature(function).parameters.values() if each.default is each.empty]
    assert function.__name__ == stage.name
    assert needed == PARAMETERS.get(stage.runs, ["ctx", "record"])


def test_tasks_of_a_job_are_in_order(workspace: Workspace) -> None:
    names = ["check", "plan", "validate_input", "score", "validate_output", "profile", "commit", "drift", "report"]
    assert stage_list.tasks(job_of(workspace)) == names


def test_tasks_of_a_job_are_those_that_it_has_not_switched_off(workspace: Workspace) -> None:
    assert stage_list.tasks(job_of(workspace, OFF)) == ["check", "plan", "score", "commit"]


def test_tasks_of_a_job_that_looks_back_end_with_late_rows(workspace: Workspace) -> None:
    workspace.job(schedule="lookback = 2")
    assert stage_list.tasks(workspace.context().job)[-1] == "late_rows"
    workspace.job(schedule="lookback_days = 2")
    assert stage_list.tasks(workspace.context().job)[-1] == "late_rows"


@pytest.mark.parametrize("name", ["scores", "repair", "index"])
def test_find_unknown_stage_or_one_without_a_task_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError, match=f"no stage is called '{name}'(?s:.)*check, plan, validate_input"):
        stage_list.find(name)


def test_stages_that_follow_a_task_in_its_process(workspace: Workspace) -> None:
    job = job_of(workspace)
    followers = {name: [stage.name for stage in stage_list.following(job, name)] for name in stage_list.tasks(job)}
    assert {name: found for name, found in followers.items() if found} == {"check": ["repair"], "report": ["index"]}


@pytest.mark.parametrize(
    ("state", "due"),
    [
        (State.planned, {"validate_input", "score", "validate_output", "profile", "commit"}),
        (State.scored, {"validate_input", "score", "validate_output", "profile", "commit"}),
        (State.complete, {"drift", "report"}),
        *((state, {"report"}) for state in (State.overtaken, State.superseded, State.stopped, State.failed)),
        (State.rolled_back, {"report"}),
    ],
)
def test_stages_that_are_due_follow_from_the_state(workspace: Workspace, state: State, due: set[str]) -> None:
    workspace.day(3)
    record = workspace.complete().with_(state=state, stages=())
    job = workspace.context().job
    assert {stage.name for stage in stage_list.of_run(job) if stage.is_due(record)} == due


def test_stage_that_the_record_names_is_not_due_again(workspace: Workspace) -> None:
    workspace.day(3)
    record = workspace.complete()
    assert [stage.name for stage in stage_list.of_run(workspace.context().job) if stage.is_due(record)] == ["report"]
    again = record.with_(state=State.scored)
    assert not [stage for stage in stage_list.of_run(workspace.context().job, "commit") if stage.is_due(again)]


def test_next_of_a_run_that_has_not_begun_is_the_first_stage_after_the_plan(workspace: Workspace) -> None:
    lake = lakes.open_lake(workspace.lake)
    lakes.add_day(lake, DAY, ["a"])
    record = lake.records.of_day("churn", DAY)[0]
    assert stage_list.next_of(job_of(workspace), record.with_(state=State.planned, stages=())) == "validate_input"
    assert stage_list.next_of(job_of(workspace, OFF), record.with_(state=State.failed, stages=())) == "score"
    assert stage_list.next_of(job_of(workspace), record) is None


def test_architecture_has_the_table_of_stages() -> None:
    rows = re.findall(
        r"^\| (\w+) \| `([\w/]+)\.py` \| ([^|]+) \| (?:`([\w.]+)`)? ?\|", ARCHITECTURE.read_text("utf-8"), re.MULTILINE
    )
    expected = [
        (stage.name, stage.module.removeprefix("pipeline.").replace(".", "/"), str(stage.runs), stage.needs)
        for stage in STAGES
    ]
    assert rows == expected
