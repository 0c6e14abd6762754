"""The commands by module, and the command line that they make up."""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import Annotated

import typer

COMMANDS = {
    "demo": ("demo",),
    "init": ("init",),
    "job": ("job",),
    "ingest": ("generate", "import"),
    "models": ("models",),
    "run": ("plan", "run"),
    "backfill": ("backfill",),
    "quality": ("validate", "docs", "suite", "quarantine"),
    "drift": ("drift", "labels"),
    "query": ("query", "catalog"),
    "status": ("status",),
    "metrics": ("metrics",),
    "runs": ("runs",),
    "explain": ("explain",),
    "compare": ("compare",),
    "report": ("report",),
    "score": ("score",),
    "care": ("rollback", "verify", "clean", "erase"),
    "stage": ("stage",),
    "publish": ("publish", "deliveries", "lookup"),
    "notify": ("notify",),
    "airflow": ("airflow",),
}
"""Commands added by each module of this package, in the order of the help."""


def command_line(command: str | None = None) -> typer.Typer:
    """Returns the command line with the module that adds `command` or, if no module does, with all modules.

    Importing and building all of them takes as long as finding out that a day is up to date.
    """
    app = typer.Typer(
        name="lakescore",
        help="Daily batch inference on a data lake.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        rich_markup_mode="rich",
    )
    app.callback()(_options)  # keeps the command name even if there is only one command
    for module in [name for name, commands in COMMANDS.items() if command in commands] or COMMANDS:
        importlib.import_module(f"pipeline.cli.{module}").add_to(app)
    return app


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"lakescore {metadata.version('lakescore')}")
        raise typer.Exit


def _options(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Options of the command line as a whole."""
