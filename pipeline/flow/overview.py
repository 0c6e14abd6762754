"""All jobs at a glance: what became of the newest periods of each. Reads listings, run records, and job files."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from pipeline.errors import JobError, ModelError
from pipeline.flow.status import PartitionStatus, status
from pipeline.job.config import Job
from pipeline.job.loading import read_job
from pipeline.job.project import job_names
from pipeline.lake.layout import Lake
from pipeline.lake.states import PeriodState
from pipeline.model.remote import open_registry
from pipeline.periods import Period
from pipeline.records import ModelRef, RunRecord
from pipeline.settings import Settings

PERIODS = 31
"""Number of periods, up to the last one that is due, that are looked at."""


@dataclass(frozen=True)
class JobOverview:
    job: str
    error: str | None = None
    """What is wrong with the job's file or its model, so that no run can work."""
    owner: str | None = None
    model: str | None = None
    """Version of the model that the next run would use."""
    due: str | None = None
    """The last period that is due."""
    due_state: PeriodState | None = None
    """Its state; None if it has neither input nor predictions."""
    states: dict[str, int] | None = None
    """Number of periods by state."""
    attention: tuple[PartitionStatus, ...] = ()
    """The periods that are not as they should be, newest first."""
    last_complete: RunRecord | None = None
    """Run of the newest period that has a complete one."""

    @property
    def is_well(self) -> bool:
        return self.error is None and not self.attention and self.due_is_done

    @property
    def due_is_done(self) -> bool:
        return self.due_state in (PeriodState.complete, PeriodState.skipped)

    @property
    def reason(self) -> str | None:
        """Returns what is wrong first of all: the job itself, a period that is due, or an earlier one."""
        if self.error is not None:
            return self.error
        if self.attention:
            worst = self.attention[0]
            return f"{worst.ds} {worst.state.replace('_', ' ')}" + (f" {worst.note}" if worst.note else "")
        return None if self.due_is_done else f"{self.due} has no input"

    def as_dict(self) -> dict[str, Any]:
        last = self.last_complete
        return {
            "job": self.job,
            "error": self.error,
            "owner": self.owner,
            "model": self.model,
            "due": self.due,
            "due_state": self.due_state,
            "states": self.states,
            "attention": [asdict(day) for day in self.attention],
            "last_complete": last and {"ds": last.ds, "run_id": last.run_id, "finished_at": last.finished_at},
            "reason": self.reason,
        }


def overview(settings: Settings, lake: Lake, now: datetime) -> list[JobOverview]:
    """Returns the state of each job of the project, by name. A job that cannot be read has its error, and no more.

    Raises LakeDamaged if a run record cannot be read.
    """
    found = []
    for name in job_names(settings):
        try:
            job = read_job(settings.jobs / name, settings)
        except JobError as error:
            found.append(JobOverview(name, error=error.what))
            continue
        found.append(_of_job(settings, lake, job, now))
    return found


def _of_job(settings: Settings, lake: Lake, job: Job, now: datetime) -> JobOverview:
    model: ModelRef | None = None
    error = None
    try:
        model = open_registry(settings.models).resolve(job.model.name, job.model.version).ref
    except ModelError as missing:
        error = missing.what
    due = job.last_due(now)
    days = status(lake, job, model, due - (PERIODS - 1), due)
    states = Counter(day.state.value for day in days)
    return JobOverview(
        job.name,
        error=error,
        owner=job.schedule.owner,
        model=model.version if model else None,
        due=due.ds,
        due_state=next((day.state for day in days if day.ds == due.ds), None),
        states={state.value: states[state.value] for state in PeriodState if states[state.value]},
        attention=tuple(day for day in reversed(days) if day.state.needs_attention),
        last_complete=_last_complete(lake, job),
    )


def _last_complete(lake: Lake, job: Job) -> RunRecord | None:
    known = (Period.stored(ds, job.grain) for ds in lake.records.days(job.name))
    for period in sorted((each for each in known if each is not None), reverse=True):
        if (record := lake.records.last_complete(job.name, period.ds)) is not None:
            return record
    return None
