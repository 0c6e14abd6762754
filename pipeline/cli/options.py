"""Options shared by several commands, and their resolution."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli import next_steps
from pipeline.cli.asking import Missing, open_lake
from pipeline.context import Context, Progress, silent
from pipeline.errors import UsageError
from pipeline.job.config import Job
from pipeline.job.loading import find_job
from pipeline.settings import Settings

if TYPE_CHECKING:
    from pipeline.ingest.publishing import Existing

JobOption = Annotated[
    str | None,
    typer.Option(
        "--job",
        help="Job name, or path of the job's folder.",
        show_default="LAKESCORE_JOB, or the project's",
        callback=next_steps.note,
    ),
]
LakeOption = Annotated[
    str | None,
    typer.Option(
        "--lake", help="Root of the lake.", show_default="LAKESCORE_LAKE, or ./lake", callback=next_steps.note
    ),
]
DateOption = Annotated[
    str | None,
    typer.Option("--date", help="Day, YYYY-MM-DD; an hour is YYYY-MM-DDTHHZ.", show_default="the last that is over"),
]
FromOption = Annotated[str | None, typer.Option("--from", help="First day.", show_default="the first in the lake")]
ToOption = Annotated[str | None, typer.Option("--to", help="Last day, inclusive.", show_default="the last in the lake")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
TypesOption = Annotated[
    list[str] | None,
    typer.Option("--types", help="Column types, such as id=VARCHAR,age=INTEGER.", metavar="COLUMN=TYPE"),
]
DecimalOption = Annotated[str, typer.Option("--decimal", help="Decimal point of numbers in text: '.' or ','.")]
DelimiterOption = Annotated[
    str | None,
    typer.Option("--delimiter", help="Delimiter of CSV: one character, or tab.", show_default="as in the header"),
]

JOB: str | None = None


def settings(lake: str | None = None) -> Settings:
    """Returns the settings from the environment; `lake`, if given, replaces the root of the lake."""
    found = Settings.from_environment()
    return found if lake is None else dataclasses.replace(found, lake=lake)


def open_context(
    job: str | None, lake: str | None = None, progress: Progress = silent, missing: Missing = Missing.refuse
) -> Context:
    """Returns the context of a command: its job, lake and models. Raises UsageError as `open_lake` does."""
    machine = settings(lake)
    found = find_job(job, machine)
    open_lake(machine, missing)
    return Context.open(found, machine, progress)


def period_or_last(job: Job, ds: str | None) -> str:
    """Returns the period that a command is about; without one, the last one that is due, by default yesterday."""
    return (job.last_due(datetime.now(UTC)) if ds is None else job.period(ds)).ds


def period_or_none(job: Job, ds: str | None) -> str | None:
    """Returns the period that a person names, as it is stored; None if they name none."""
    return None if ds is None else job.period(ds).ds


def what_to_do_with_days(ds: str | None, partition_by: str | None, *, append: bool, replace: bool) -> Existing:
    """Returns how an import treats days that already have files. Raises UsageError for contradictory options."""
    from pipeline.ingest.publishing import Existing

    if (ds is None) == (partition_by is None):
        raise UsageError("an import needs the day of the rows", expected="either --date D or --partition-by COLUMN")
    if append and replace:
        raise UsageError("--append and --replace cannot be combined")
    return Existing.append if append else Existing.replace if replace else Existing.refuse
