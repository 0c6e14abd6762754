"""Puts the commands together, and turns errors into messages and exit codes."""

from __future__ import annotations

import logging
import os
import signal
import sys

import typer

from pipeline.cli import (
    airflow,
    care,
    compare,
    demo,
    drift,
    explain,
    ingest,
    models,
    notify,
    quality,
    query,
    run,
    score,
    stage,
)
from pipeline.cli import report as report_
from pipeline.cli.output import console, emit_json
from pipeline.errors import LakescoreError

app = typer.Typer(
    name="lakescore",
    help="Daily batch inference on a data lake.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
GROUPS = (
    demo,
    ingest,
    models,
    run,
    quality,
    drift,
    query,
    explain,
    compare,
    report_,
    score,
    care,
    stage,
    notify,
    airflow,
)
for group in GROUPS:
    group.add_to(app)


class Interrupted(BaseException):
    """A signal asks us to end. Not a KeyboardInterrupt: Typer ends without a word for that."""


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
        app()
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
        emit_json(error.as_dict())
    kind = "error" if not error.transient else "error (a retry may help)"
    console(stderr=True).print(Text.assemble((f"{kind}: ", "bold red"), str(error)))
