"""Where Great Expectations works: in a process of its own beside a command's, otherwise in this one.

Importing it takes two to three seconds of a core, during which torch cannot be imported in the same process. So a
process that runs one command starts another one for it as soon as a suite will be needed. That one has no access to the
data: it sends SQL, which is run here, in the connection that has the view, and gets the few values of the result.
"""

from __future__ import annotations

import atexit
import importlib
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import cache
from multiprocessing.connection import Pipe
from typing import TYPE_CHECKING, Any

import duckdb

from pipeline import startup
from pipeline.errors import LakescoreError, WorkerLost
from pipeline.quality.finding import Finding
from pipeline.records import Rule, StageReport

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

STAGE = "import_quality"
MODULE = "pipeline.quality.gx_process"
ENDS_WITHIN_S = 10.0
"""Seconds that the other process has to end, once it is told to."""
_loaded: list[StageReport] = []
"""What the import took, until `taken` is asked for it."""


def evaluate(con: Connection, view: str, rules: Sequence[Rule], *, samples: bool = False) -> list[Finding]:
    """Evaluates rules over a view of an open connection. An expectation that raises becomes a finding with an error.

    Raises WorkerLost if the process of Great Expectations dies.
    """
    if startup.is_owned():
        return other_process().evaluate(con, view, rules, samples=samples)
    began, cpu = time.perf_counter(), time.process_time()
    is_new = "pipeline.quality.gx_engine" not in sys.modules
    from pipeline.quality import gx_engine

    if is_new:
        _loaded.append(StageReport(stage=STAGE, wall_s=time.perf_counter() - began, cpu_s=time.process_time() - cpu))
    return gx_engine.evaluate(con, view, rules, samples=samples)


def taken() -> StageReport | None:
    """Returns how long this process has waited for Great Expectations, and its CPU; None if asked for it before."""
    return _loaded.pop() if _loaded else None


def start() -> None:
    """Begins to import Great Expectations in its process; in this one, imports it."""
    if startup.is_owned():
        other_process()
    else:
        importlib.import_module("pipeline.quality.gx_engine")


@cache
def other_process() -> OtherProcess:
    """Returns the process of Great Expectations, which lives as long as this one."""
    found = OtherProcess()
    atexit.register(found.close)
    return found


class OtherProcess:
    """A process that evaluates rules, and lets this one run the SQL."""

    def __init__(self) -> None:
        self._channel, theirs = Pipe()
        # As this process finds modules, and from no other place: the current folder may have any name in it.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - this program itself
                [sys.executable, "-P", "-m", MODULE, str(theirs.fileno())],
                env=environment,
                stdin=subprocess.PIPE,  # its end tells the other process that this one is gone
                stdout=subprocess.DEVNULL,  # belongs to the results of the command
                pass_fds=(theirs.fileno(),),
            )
        self._is_ready = False

    def evaluate(self, con: Connection, view: str, rules: Sequence[Rule], *, samples: bool) -> list[Finding]:
        self._wait()
        self._tell((view, list(rules), samples))
        while (asked := self._receive())[0] == "execute":
            self._tell(_executed(con, *asked[1:]))
        found: list[Finding] = asked[1]
        return found

    def close(self) -> None:
        """Ends the process, whatever it is doing."""
        self._channel.close()
        self._process.kill()
        self._process.wait(ENDS_WITHIN_S)
        if self._process.stdin is not None:
            self._process.stdin.close()

    def _wait(self) -> None:
        """Waits until Great Expectations is imported, which began with this process."""
        if not self._is_ready:
            began = time.perf_counter()
            _, cpu_s = self._receive()
            _loaded.append(StageReport(stage=STAGE, wall_s=time.perf_counter() - began, cpu_s=cpu_s))
            self._is_ready = True

    def _tell(self, message: object) -> None:
        try:
            self._channel.send(message)
        except OSError as error:
            raise self._lost() from error

    def _receive(self) -> tuple[Any, ...]:
        """Returns the next message. Raises LakescoreError for an error in the other process."""
        try:
            message: tuple[Any, ...] = self._channel.recv()
        except (EOFError, OSError) as error:
            raise self._lost() from error
        if message[0] == "failed":
            raise LakescoreError(
                "Great Expectations failed",
                got=message[1],
                next_step="see its message on stderr; pip check tells whether its packages fit together",
            )
        return message

    def _lost(self) -> WorkerLost:
        try:
            code: object = self._process.wait(ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            code = "none yet"
        return WorkerLost(
            "the process of Great Expectations died",
            got=f"exit code {code}",
            next_step="look for the kernel's out-of-memory messages; then run again",
        )


def _executed(con: Connection, text: str, parameters: list[Any]) -> tuple[Any, ...]:
    """Runs a statement; returns its columns and rows, or the class and message of its error."""
    try:
        con.execute(text, parameters)
        return "rows", [column[0] for column in con.description or ()], con.fetchall()
    except duckdb.Error as error:
        return "error", type(error).__name__, str(error)
