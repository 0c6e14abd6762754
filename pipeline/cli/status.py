"""status: the calendar of a job, and all jobs at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.asking import open_lake
from pipeline.cli.days import show
from pipeline.cli.options import JOB, FromOption, JobOption, JsonOption, LakeOption, ToOption, settings
from pipeline.cli.output import console, emit_json, table
from pipeline.errors import ModelError, UsageError, counted
from pipeline.job.config import Job
from pipeline.job.loading import find_job
from pipeline.lake.states import in_words
from pipeline.records import ModelRef
from pipeline.settings import Settings

if TYPE_CHECKING:
    from pipeline.flow.overview import JobOverview


def add_to(app: typer.Typer) -> None:
    app.command()(status)


def status(
    job: JobOption = JOB,
    first: FromOption = None,
    last: ToOption = None,
    lake: LakeOption = None,
    *,
    all_jobs: Annotated[
        bool, typer.Option("--all-jobs", help="One line for each job of the project, over its last 31 due days.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Show the calendar of a job: the state of each day, its newest run, and what is wrong."""
    from pipeline.flow import status as calendar

    machine = settings(lake)
    if all_jobs:
        if job or first or last:
            raise UsageError("--all-jobs cannot be combined with --job, --from and --to")
        _show_jobs(machine, json=json)
        return
    found_job = find_job(job, machine)
    model = _model(found_job, machine)
    days = calendar.status(open_lake(machine), found_job, model, *found_job.range(first, last))
    if json:
        ref = model.model_dump() if model else None
        emit_json({"job": found_job.name, "model": ref, "days": [day.as_dict() for day in days]})
    else:
        show(found_job, model, days)


def _show_jobs(machine: Settings, *, json: bool) -> None:
    from pipeline.flow.overview import overview

    found = overview(machine, open_lake(machine), datetime.now(UTC))
    if json:
        emit_json([each.as_dict() for each in found])
    elif not found:
        console().print(f"no job in {machine.jobs}", markup=False)
    else:
        _show_table(found)


def _show_table(found: Sequence[JobOverview]) -> None:
    rows = [
        (
            each.job,
            each.due,
            in_words(each.due_state) if each.due_state else None,
            each.last_complete.ds if each.last_complete else None,
            len(each.attention),
            each.owner,
            each.reason or "",
        )
        for each in found
    ]
    table(("job", "due", "state", "last complete", "amiss", "owner", "reason"), rows, below=("owner", "reason"))
    well = sum(each.is_well for each in found)
    console().print(f"{well} of {counted(len(found), 'job')} as they should be; lakescore status --job NAME shows days")


def _model(job: Job, machine: Settings) -> ModelRef | None:
    """Returns the job's model; if it cannot be resolved, prints a note on stderr and returns None."""
    from pipeline.model.remote import open_registry

    try:
        return open_registry(machine.models).resolve(job.model.name, job.model.version).ref
    except ModelError as error:
        console(stderr=True).print(f"{error.what}: stale days cannot be determined", markup=False)
        return None
