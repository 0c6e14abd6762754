"""Assembles the commands, and turns errors into messages and exit codes."""

from __future__ import annotations

import logging
import os
import signal
import sys

from pipeline import machine, startup
from pipeline.cli import next_steps
from pipeline.cli.commands import command_line
from pipeline.cli.output import console, report
from pipeline.errors import LakescoreError

log = logging.getLogger("lakescore")


class Hints(logging.Formatter):
    """Adds `--job` and `--lake` to the commands that a message names, as `next_steps` does."""

    def format(self, record: logging.LogRecord) -> str:
        return next_steps.completed(super().format(record))


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

    Exit codes, as in docs/on-call.md: 0 success, 1 failure, 2 usage error, 3 stopped by data, 75 transient error (a
    retry may help), 130 interrupted, 143 terminated.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(Hints("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for ours in ("lakescore", "pipeline"):
        logging.getLogger(ours).setLevel(logging.INFO)
    next_steps.forget()
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
