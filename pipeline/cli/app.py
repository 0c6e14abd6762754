"""Assembles the commands, and turns errors into messages and exit codes."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
from importlib import metadata
from typing import Annotated

import typer

from pipeline import machine, startup
from pipeline.cli.output import console, report
from pipeline.errors import LakescoreError

log = logging.getLogger("lakescore")

COMMANDS = {
    "demo": ("demo",),
    "init": ("init",),
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


class Interrupted(BaseException):
    """Raised by the signal handler. Not a KeyboardInterrupt, on which Typer would exit without a message."""


def program() -> None:
    """Runs a command in a process that does nothing else: the entry point of `lakescore`."""
    startup.configure()
    try:
        main()
    except SystemExit as ended:
        startup.leave(ended)


def main() -> None:
    """Runs a command.

    Exit codes: 0 success, 1 failure, 2 usage error, 3 stopped by data quality, 75 transient error (a retry may help),
    130 interrupted, 143 terminated.
    """
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    for ours in ("lakescore", "pipeline"):
        logging.getLogger(ours).setLevel(logging.INFO)
    received = _signals()
    if (limit := machine.address_space()) is not None:
        log.warning("this process may use at most %s: if it dies without a message, this is why", limit)
    try:
        command_line(sys.argv[1] if len(sys.argv) > 1 else None)()
    except BaseException as error:
        if received:  # for any exception: DuckDB turns an interrupted query into a RuntimeError
            console(stderr=True).print(
                "[yellow]interrupted[/]; no partial results are visible, and the next run resumes"
            )
            sys.exit(128 + received[0])
        known = error if isinstance(error, LakescoreError) else _out_of_memory(error)
        if known is not None:
            report(known)
            sys.exit(known.exit_code)
        raise


def _out_of_memory(error: BaseException) -> LakescoreError | None:
    """Returns the error that says what to set if DuckDB's limit or the system has refused memory; else None."""
    if "duckdb" in sys.modules:
        from pipeline.database import connection

        if connection.ran_out_of_memory(error):
            return connection.out_of_memory(error, None)
    return machine.out_of_memory(error)


def _signals() -> list[int]:
    """Makes SIGINT (Ctrl-C) and SIGTERM (a scheduler) end the process cleanly; returns the list of received signals.

    A second signal exits at once, without waiting for the workers: as safe as a crash, but the next run has more to do.
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
