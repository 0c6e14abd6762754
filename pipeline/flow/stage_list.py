"""The stages, in the order in which a day passes through them. Everything that runs or shows stages reads this list.

A stage is the function of its name in its module, which is imported when the stage runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from operator import attrgetter
from typing import Any

from pipeline.errors import UsageError
from pipeline.job.config import Job
from pipeline.lake.record_store import OPEN
from pipeline.records import RunRecord, State


class Runs(StrEnum):
    """When a stage runs; this decides what its function takes and returns."""

    on_a_day = "on a day"
    """Before or outside a run: takes the context and the day."""
    up_to_date = "on a day that is up to date"
    """Takes the context and the record of the last complete run, and returns an `Addition` to it."""
    before_commit = "before the commit"
    """Takes the context and the record of the run, and returns an `Addition` to it, like the next two."""
    after_commit = "after the commit"
    """Only if the run is complete."""
    at_the_end = "at the end of a run"
    """In whatever state the run has ended."""
    on_the_lake = "once after all days"
    """Takes only the context."""


@dataclass(frozen=True)
class Stage:
    name: str
    module: str
    runs: Runs
    needs: str = ""
    """Attribute of the job that switches the stage on: its value must be true, or more than 0. Empty: always on."""
    failure: str | None = None
    """What is missing if the stage fails, as the start of the run's warning. None: the run fails with the stage."""
    repeated: bool = False
    """Whether it stays due until it has succeeded: later runs of the day repeat it, and its task fails by itself."""
    own_task: bool = True
    """Whether an orchestrator runs it as a task; if not, it follows the task before it in the same process."""

    @property
    def fatal(self) -> bool:
        return self.failure is None

    def function(self) -> Callable[..., Any]:
        work: Callable[..., Any] = getattr(import_module(self.module), self.name)
        return work

    def is_of(self, job: Job) -> bool:
        """Tells whether the job has the stage switched on."""
        return not self.needs or bool(attrgetter(self.needs)(job))

    def is_due(self, record: RunRecord) -> bool:
        """Tells whether a run needs the stage now, according to its record."""
        done = any(report.stage == self.name for report in record.stages)
        match self.runs:
            case Runs.before_commit:
                return record.state in OPEN and not done
            case Runs.after_commit:
                return record.state is State.complete and not done
            case Runs.at_the_end:
                return record.state not in OPEN
            case Runs.up_to_date:
                return record.state is State.complete
            case _:
                return False


STAGES = (
    Stage("check", "pipeline.flow.single_stage", Runs.on_a_day),
    Stage("repair", "pipeline.drift.stage", Runs.up_to_date, "drift.enabled", failure="no profile", own_task=False),
    Stage("plan", "pipeline.selecting.plan", Runs.on_a_day),
    Stage("validate_input", "pipeline.quality.stage", Runs.before_commit, "quality.enabled"),
    Stage("score", "pipeline.buckets.stage", Runs.before_commit),
    Stage("validate_output", "pipeline.quality.stage", Runs.before_commit, "quality.enabled"),
    Stage("profile", "pipeline.profiles.stage", Runs.before_commit, "drift.enabled", failure="no profile"),
    Stage("commit", "pipeline.committing.stage", Runs.before_commit),
    Stage("drift", "pipeline.drift.stage", Runs.after_commit, "drift.enabled", failure="no drift"),
    Stage("publish", "pipeline.publish.stage", Runs.after_commit, "publish", failure="not published", repeated=True),
    Stage(
        "announce", "pipeline.notify.announcing", Runs.after_commit, "announces", failure="not announced", repeated=True
    ),
    Stage("report", "pipeline.report.stage", Runs.at_the_end, "report.enabled", failure="no page"),
    Stage("index", "pipeline.report.stage", Runs.on_the_lake, "report.enabled", failure="no index", own_task=False),
    Stage("earlier", "pipeline.flow.single_stage", Runs.on_a_day, "schedule.since_last_run"),
    Stage("late_rows", "pipeline.flow.single_stage", Runs.on_a_day, "lookback"),
)
NAMES = tuple(stage.name for stage in STAGES)
TASKS = tuple(stage.name for stage in STAGES if stage.own_task)
"""Names of the stages that can be run on their own."""
OF_A_RUN = (Runs.before_commit, Runs.after_commit, Runs.at_the_end)


def find(name: str) -> Stage:
    """Returns the stage of a task. Raises UsageError for an unknown stage."""
    for stage in STAGES:
        if stage.name == name and stage.own_task:
            return stage
    raise UsageError(f"no stage is called {name!r}", expected=", ".join(TASKS))


def of(job: Job) -> list[Stage]:
    """Returns the stages that a job has, in order."""
    return [stage for stage in STAGES if stage.is_of(job)]


def tasks(job: Job) -> list[str]:
    """Returns the names of the stages that an orchestrator runs as tasks, in order."""
    return [stage.name for stage in of(job) if stage.own_task]


def of_run(job: Job, last: str | None = None) -> list[Stage]:
    """Returns the stages of a job that a run goes through, in order, up to the stage `last` if given."""
    end = len(STAGES) if last is None else NAMES.index(last) + 1
    return [stage for stage in STAGES[:end] if stage.runs in OF_A_RUN and stage.is_of(job)]


def running(job: Job, when: Runs) -> list[Stage]:
    """Returns the stages of a job that run at a given point, in order."""
    return [stage for stage in of(job) if stage.runs is when]


def following(job: Job, name: str) -> list[Stage]:
    """Returns the stages that run after a task in the same process, because they are not tasks themselves."""
    found: list[Stage] = []
    for stage in STAGES[NAMES.index(name) + 1 :]:
        if stage.own_task:
            break
        found.append(stage)
    return [stage for stage in found if stage.is_of(job)]


def next_of(job: Job, record: RunRecord) -> str | None:
    """Returns the stage that a run needs next, or in which it failed or was stopped; None after its commit."""
    if record.state not in (*OPEN, State.failed, State.stopped):
        return None
    done = {report.stage for report in record.stages}
    left = (stage.name for stage in running(job, Runs.before_commit) if stage.name not in done)
    return next(left, None)
