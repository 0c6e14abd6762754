"""Questions before something unusual is written: a new lake, or a period in the future.

On a terminal a person is asked; a program has to say by an option that it is meant.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from enum import Enum
from typing import Annotated

import typer

from pipeline.cli.output import console
from pipeline.errors import UsageError, counted
from pipeline.job.config import Job
from pipeline.job.project import PROJECT_FILE
from pipeline.lake.layout import Lake
from pipeline.periods import Grain, Period
from pipeline.settings import Settings

CreateOption = Annotated[bool, typer.Option("--create", help="Make the lake if it is not there.")]
FutureOption = Annotated[bool, typer.Option("--future", help="The date may lie in the future.")]


class Missing(Enum):
    """What a command does if the lake is not there."""

    refuse = "it reads what is stored"
    ask = "it writes, and would make a new lake"
    make = "a person has said that a new lake is meant"


def writes(*, create: bool) -> Missing:
    return Missing.make if create else Missing.ask


def on_a_terminal() -> bool:
    return sys.stdin.isatty()


def open_lake(machine: Settings, missing: Missing = Missing.refuse) -> Lake:
    """Opens the lake of a command. Raises UsageError if it is not there and is not to be made.

    In a project, `./lake` is where the lake belongs: there is nothing to ask, but it is said that it is new.
    """
    lake = Lake.open(machine.lake)
    if missing is Missing.make or lake.exists():
        return lake
    where = lake.storage.where("").rstrip("/")
    if missing is Missing.refuse:
        raise UsageError(
            "there is no lake here",
            where=where,
            next_step="lakescore import FILES --date YYYY-MM-DD makes one; name another by --lake or LAKESCORE_LAKE",
        )
    if machine.lake == Settings.lake and (machine.jobs.is_dir() or PROJECT_FILE.exists()):
        console(stderr=True).print(f"a new lake: {where}", markup=False)
    elif on_a_terminal():
        typer.confirm(f"There is no lake in {where}. Make one", abort=True, err=True)
    else:
        raise UsageError("there is no lake here", where=where, next_step="add --create to make one, or correct --lake")
    return lake


def check_date(job: Job, ds: str | None, *, future: bool) -> None:
    """Asks about a period that has not begun yet. Raises UsageError for it where nobody can be asked."""
    if ds is not None and not future:
        _check_begun(job.period(ds), job.schedule.timezone)


def check_day(ds: str, *, future: bool) -> None:
    """The same for a day in UTC, of no job."""
    if not future:
        _check_begun(Period.parse(ds, Grain.day), "UTC")


def _check_begun(period: Period, zone: str) -> None:
    begins, now = period.start(zone), datetime.now(UTC)
    if begins <= now:
        return
    if on_a_terminal():
        away = counted((begins - now).days + 1, "day")
        typer.confirm(f"{period.ds} lies in the future, {away} from now. Is it meant", abort=True, err=True)
        return
    raise UsageError(
        f"{period.ds} lies in the future",
        expected=f"a {period.grain} that has begun, at the latest {Period.at(period.grain, now, zone).ds}",
        next_step="correct --date, or add --future if it is meant",
    )
