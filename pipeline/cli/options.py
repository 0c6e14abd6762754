"""The options that several commands share, and what they resolve to."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import UsageError
from pipeline.job import DEFAULT_JOB
from pipeline.settings import Settings

if TYPE_CHECKING:
    from pipeline.ingest.publishing import Existing

JobOption = Annotated[str, typer.Option("--job", help="A job's name, or the path of its folder.")]
LakeOption = Annotated[
    str | None, typer.Option("--lake", help="The lake's root.", show_default="LAKESCORE_LAKE, or ./lake")
]
DateOption = Annotated[str | None, typer.Option("--date", help="A day, YYYY-MM-DD.", show_default="yesterday")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]

JOB = DEFAULT_JOB


def settings(lake: str | None = None) -> Settings:
    """Returns the environment's settings, with the root of the lake replaced if one is given."""
    found = Settings.from_environment()
    return found if lake is None else dataclasses.replace(found, lake=lake)


def what_to_do_with_days(ds: str | None, partition_by: str | None, *, append: bool, replace: bool) -> Existing:
    """Returns what an import does about days that have files already. Raises UsageError for options that do not fit."""
    from pipeline.ingest.publishing import Existing

    if (ds is None) == (partition_by is None):
        raise UsageError("an import needs to know the day", expected="either --date D, or --partition-by COLUMN")
    if append and replace:
        raise UsageError("--append and --replace contradict each other")
    return Existing.append if append else Existing.replace if replace else Existing.refuse
