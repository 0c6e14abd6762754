"""Progress: a bar on a terminal, else a line per stage; always on stderr."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

from tests.calling import Cli
from tests.conftest import ROOT
from tests.workspace import DAY, Workspace, table


@pytest.mark.slow
def test_run_on_a_terminal_shows_progress(workspace: Workspace) -> None:
    workspace.day(table(1_000_000))  # several batches: workers have no shares of time before the first
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLUMNS": "200"}
    command = [sys.executable, "-m", "pipeline", "run", "--job", "toy", "--date", DAY]
    with subprocess.Popen(
        command, cwd=workspace.root, env=environment, stdout=subprocess.PIPE, stderr=theirs
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
        assert process.wait() == 0
    os.close(ours)
    assert b"score" in shown
    assert re.search(rb"rows/s, [\d.]+ [kM]?B read, [\d.]+ [kM]?B written", shown)
    assert re.search(rb"judge \d+%, forward \d+%", shown)


@pytest.mark.slow
def test_progress_without_a_terminal_is_a_line_at_the_end_of_a_stage(workspace: Workspace, cli: Cli) -> None:
    run = ("run", "--job", "toy", "--date", DAY)
    workspace.day(100)
    lines = cli(*run).stderr.splitlines()
    (line,) = (line for line in lines if line.startswith("score: "))
    assert re.fullmatch(r"score: 100 of 100 rows(, [\d,]+ rows/s)?", line)
    workspace.day(110)
    assert "score: " not in cli(*run, "--json").stderr, "a program reads the JSON, and wants no progress"
