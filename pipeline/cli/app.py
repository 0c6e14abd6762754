"""Puts the commands together, and turns errors into messages and exit codes."""

from __future__ import annotations

import sys

import typer

from pipeline.cli import models, run, score
from pipeline.cli.output import console, emit_json
from pipeline.errors import LakescoreError

app = typer.Typer(
    name="lakescore",
    help="Daily batch inference on a data lake.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for group in (run, score, models):
    group.add_to(app)


def main() -> None:
    """Exit codes: 0 done, 1 failed, 2 wrong usage, 3 stopped by data quality, 130 interrupted."""
    try:
        app()
    except LakescoreError as error:
        report(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        console(stderr=True).print("[yellow]interrupted[/]; nothing half-done is visible, and the next run resumes")
        sys.exit(130)


def report(error: LakescoreError) -> None:
    from rich.text import Text

    if "--json" in sys.argv:
        emit_json(error.as_dict())
    kind = "error" if not error.transient else "error (a retry may help)"
    console(stderr=True).print(Text.assemble((f"{kind}: ", "bold red"), str(error)))
