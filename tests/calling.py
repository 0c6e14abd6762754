"""The command line called in this process: as a user sees it, without the second that a new process needs to start."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import Protocol

import pytest
from typer.testing import CliRunner

from pipeline.cli import app, output
from pipeline.errors import LakescoreError

Expected = int | type[LakescoreError]


class Cli(Protocol):
    """Calls a command; `expect` is its exit code, or the error that ends it."""

    def __call__(self, *arguments: object, expect: Expected = 0) -> subprocess.CompletedProcess[str]: ...


def caller(monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Returns a function that runs `main()`: arguments, messages and exit codes are those of a process."""
    monkeypatch.setattr(app, "_signals", list)  # pytest keeps its own handlers
    raised: list[LakescoreError] = []
    report = output.report

    def noted(error: LakescoreError) -> None:
        raised.append(error)
        report(error)

    monkeypatch.setattr("pipeline.cli.app.report", noted)

    def call(*arguments: object, expect: Expected = 0) -> subprocess.CompletedProcess[str]:
        raised.clear()
        words = list(map(str, arguments))
        monkeypatch.setattr(sys, "argv", ["lakescore", *words])
        with CliRunner().isolation() as (output, errors, _):
            code = _exit_code()
            sys.stdout.flush()
            sys.stderr.flush()
            stdout, stderr = (each.getvalue().decode() for each in (output, errors))
        said = f"{words}: exit {code}\n{stdout}\n{stderr}"
        assert code == (expect if isinstance(expect, int) else expect.exit_code), said
        assert isinstance(expect, int) or isinstance(raised[0], expect), said
        return subprocess.CompletedProcess(words, code, stdout, stderr)

    return call


def _exit_code() -> int:
    """Runs the command of `sys.argv`. Log lines go to stderr, as in a process; the levels of the loggers are kept."""
    lines = logging.StreamHandler()
    levels = {name: logging.getLogger(name).level for name in ("lakescore", "pipeline")}
    logging.getLogger().addHandler(lines)
    try:
        app.main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    finally:
        logging.getLogger().removeHandler(lines)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
    return 0
