"""Puts the commands together, and turns errors into messages and exit codes."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
from contextlib import suppress

import typer

from pipeline import process
from pipeline.cli.output import console, emit_json
from pipeline.errors import LakescoreError

COMMANDS = {
    "demo": ("demo",),
    "ingest": ("generate", "import"),
    "models": ("models",),
    "run": ("plan", "run", "backfill"),
    "quality": ("validate", "docs", "suite", "quarantine"),
    "drift": ("drift", "labels"),
    "query": ("query", "catalog", "status"),
    "explain": ("explain",),
    "compare": ("compare",),
    "report": ("report",),
    "score": ("score",),
    "care": ("rollback", "verify", "clean", "erase"),
    "stage": ("stage",),
    "notify": ("notify",),
    "airflow": ("airflow",),
}
"""The modules of this package, in the order of the help, and the commands that each adds."""


def command_line(command: str | None = None) -> typer.Typer:
    """Returns the command line with one command, or with all where none of them is meant.

    Importing and building all of them takes as long as finding out that a day is up to date.
    """
    app = typer.Typer(
        name="lakescore",
        help="Daily batch inference on a data lake.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )
    app.callback()(lambda: None)  # a command has its name also where it is the only one
    for module in [name for name, commands in COMMANDS.items() if command in commands] or COMMANDS:
        importlib.import_module(f"pipeline.cli.{module}").add_to(app)
    return app


class Interrupted(BaseException):
    """A signal asks us to end. Not a KeyboardInterrupt: Typer ends without a word for that."""


def program() -> None:
    """Runs a command in a process of its own."""
    process.own()
    try:
        main()
    except SystemExit as ended:
        process.leave(ended)


def main() -> None:
    """Runs a command.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 stopped by data quality, 75 a retry may help,
    130 interrupted, 143 terminated.
    """
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    for ours in ("lakescore", "pipeline"):
        logging.getLogger(ours).setLevel(logging.INFO)
    received = _signals()
    try:
        command_line(sys.argv[1] if len(sys.argv) > 1 else None)()
    except BaseException as error:
        if received:  # whatever came of it: DuckDB turns an interrupted query into a RuntimeError
            console(stderr=True).print("[yellow]interrupted[/]; nothing half-done is visible, and the next run resumes")
            sys.exit(128 + received[0])
        if isinstance(error, LakescoreError):
            report(error)
            sys.exit(error.exit_code)
        raise


def _signals() -> list[int]:
    """Lets Ctrl-C and a scheduler's SIGTERM end the process in order, and returns a list that notes them.

    The second one ends it at once, without waiting for the workers: a crash is as safe, it only leaves more to do.
    """
    received: list[int] = []

    def end(number: int, _frame: object) -> None:
        if received:
            os._exit(128 + number)
        received.append(number)
        raise Interrupted(signal.Signals(number).name)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    return received


def report(error: LakescoreError) -> None:
    from rich.text import Text

    if "--json" in sys.argv or sys.argv[1:2] == ["stage"]:
        with suppress(BrokenPipeError):  # whoever read it has gone; people still see the error below
            emit_json(error.as_dict())
    kind = "error" if not error.transient else "error (a retry may help)"
    console(stderr=True).print(Text.assemble((f"{kind}: ", "bold red"), str(error)))
