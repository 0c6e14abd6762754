"""`lakescore stage`: what it prints, and when it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.errors import InputMissing
from tests.calling import Cli
from tests.conftest import ROOT
from tests.workspace import DAY, Workspace

PARENT = """
import subprocess, sys
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE)
print(child.pid, flush=True)
child.wait()
"""


def test_stage_command_prints_what_the_next_one_needs_and_errors_as_json(workspace: Workspace, cli: Cli) -> None:
    workspace.day(5)
    found = json.loads(cli("stage", "check", "--date", DAY, "--job", "toy").stdout)
    done = cli("stage", "commit", "--date", DAY, "--run-id", found["run_id"], "--job", "toy")
    assert json.loads(done.stdout)["ledger"]["scored"] == 5
    failed = cli("stage", "check", "--date", "2026-01-02", "--job", "toy", expect=InputMissing)
    assert json.loads(failed.stdout)["error"] == "InputMissing"


def test_stage_ends_well_while_the_process_that_started_it_lives(workspace: Workspace) -> None:
    workspace.day(5)
    command = [sys.executable, "-m", "pipeline", "stage", "check", "--date", DAY, "--end-with-stdin", "--job", "toy"]
    with subprocess.Popen(
        command,
        cwd=workspace.root,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.read())["state"] == "new"
        assert process.wait() == 0


def alive(pid: int) -> bool:
    """Tells whether a process runs; one that ended and that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_stage_ends_when_the_process_that_started_it_is_killed(workspace: Workspace) -> None:
    workspace.day(2_000_000)
    command = [sys.executable, "-m", "pipeline", "stage", "score", "--date", DAY, "--end-with-stdin", "--job", "toy"]
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            PARENT,
            *command,
        ],
        cwd=workspace.root,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    assert parent.stderr is not None
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.stderr.read()  # until the child, which has it too, is gone
    parent.wait()
    parent.stdout.close()
    parent.stderr.close()
    until = time.monotonic() + 10
    while alive(child) and time.monotonic() < until:
        time.sleep(0.05)
    assert not alive(child)
    assert not list(workspace.lake.rglob("part-*"))
