"""runs: the runs of a job, one line each."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from pipeline.cli.asking import open_lake
from pipeline.cli.options import JOB, DateOption, FromOption, JobOption, JsonOption, LakeOption, ToOption, settings
from pipeline.cli.output import console, emit_json, table
from pipeline.errors import UsageError, counted
from pipeline.job.config import Job
from pipeline.job.loading import find_job
from pipeline.lake.layout import Lake
from pipeline.lake.states import in_words
from pipeline.periods import Period
from pipeline.records import RunRecord, State

LAST = 20


def add_to(app: typer.Typer) -> None:
    app.command()(runs)


def runs(
    job: JobOption = JOB,
    ds: DateOption = None,
    first: FromOption = None,
    last: ToOption = None,
    state: Annotated[
        list[State] | None, typer.Option("--state", help="Only runs in this state; can be repeated.")
    ] = None,
    number: Annotated[int, typer.Option("--last", min=1, metavar="N", help="At most so many runs, the newest.")] = LAST,
    lake: LakeOption = None,
    *,
    json: JsonOption = False,
) -> None:
    """Show the runs of a job, newest period and run first: state, model, rows, time, and what went wrong."""
    if ds is not None and (first or last):
        raise UsageError("--date cannot be combined with --from and --to", expected="one period, or a range")
    machine = settings(lake)
    found_job = find_job(job, machine)
    records = _records(open_lake(machine), found_job, *found_job.range(ds or first, ds or last))
    chosen = (record for record in records if not state or record.state in state)
    shown = [_described(record) for record in itertools.islice(chosen, number)]
    if json:
        emit_json(shown)
        return
    if not shown:
        console().print(f"{found_job.name} has no such runs", markup=False)
        return
    table(
        (str(found_job.grain), "run", "state", "model", "scored", "quarantined", "seconds", "reason"),
        [
            (
                each["ds"],
                each["run_id"],
                in_words(each["state"]),
                each["model_version"],
                each["scored"],
                each["quarantined"],
                each["seconds"],
                each["reason"] or "",
            )
            for each in shown
        ],
        whole=(str(found_job.grain), "run", "state"),
        below=("quarantined", "reason"),
    )
    if next(chosen, None) is not None:
        console().print(f"these are the newest {counted(number, 'run')}; --last shows more")


def _records(lake: Lake, job: Job, first: Period | None, last: Period | None) -> Iterator[RunRecord]:
    """Yields the runs of the periods from `first` to `last`, newest first; reads a record when it is reached."""
    known = [Period.stored(ds, job.grain) for ds in lake.records.days(job.name)]
    for period in sorted((each for each in known if each is not None), reverse=True):
        if (first or period) <= period <= (last or period):
            yield from lake.records.iter_day(job.name, period.ds)


def _described(record: RunRecord) -> dict[str, Any]:
    counts = record.ledger.counts() if record.ledger else {}
    seconds = (record.finished_at - record.started_at).total_seconds() if record.finished_at else None
    return {
        "ds": record.ds,
        "run_id": record.run_id,
        "state": record.state,
        "model_version": record.model.version,
        "started_at": record.started_at,
        "finished_at": record.finished_at,
        "seconds": None if seconds is None else round(seconds, 1),
        "candidates": counts.get("candidates"),
        "scored": counts.get("scored"),
        "quarantined": counts.get("quarantined"),
        "reason": reason(record),
        "warnings": list(record.warnings),
    }


def reason(record: RunRecord) -> str | None:
    """Returns why a run is not simply complete: the first line of its error, or its first warning."""
    if record.error:
        return record.error.splitlines()[0]
    if not record.warnings:
        return None
    more = len(record.warnings) - 1
    return record.warnings[0] + (f" (and {counted(more, 'more warning')})" if more else "")
