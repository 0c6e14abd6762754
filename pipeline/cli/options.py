"""The options that several commands share, and what they resolve to."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from pipeline.job import DEFAULT_JOB
from pipeline.settings import Settings

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
