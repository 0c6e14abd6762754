"""The commands as a whole: which there are, and how a process ends."""

from __future__ import annotations

import importlib
import logging
import os
import subprocess
import sys
from importlib.metadata import version

import pytest
import typer
from typer.core import TyperGroup
from typer.main import get_command

from pipeline.cli import app, next_steps
from pipeline.cli.commands import COMMANDS, command_line
from pipeline.database.connection import connect
from pipeline.errors import OutOfMemory
from tests.calling import Cli
from tests.conftest import ROOT
from tests.workspace import DAY, Workspace, table


def known(command: str) -> set[str]:
    """Returns the names of the commands that are built for `command`."""
    group = get_command(command_line(command))
    assert isinstance(group, TyperGroup)
    return set(group.commands)


def test_each_command_is_listed_with_the_module_that_adds_it() -> None:
    for module, commands in COMMANDS.items():
        typed = typer.Typer()
        importlib.import_module(f"pipeline.cli.{module}").add_to(typed)
        added = [str(each.name or each.callback.__name__) for each in typed.registered_commands if each.callback]
        assert {*added, *(str(each.name) for each in typed.registered_groups)} == set(commands)
        assert all(known(name) == set(commands) for name in commands)
    assert known("no such command") == {name for commands in COMMANDS.values() for name in commands}


def test_version_and_short_help(cli: Cli) -> None:
    assert cli("--version").stdout == f"lakescore {version('lakescore')}\n"
    assert cli("run", "-h").stdout == cli("run", "--help").stdout


def test_duckdbs_memory_limit_is_named_by_which_to_raise_it(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def use_up() -> None:
        with connect("10MB", 1) as con:
            con.sql("SELECT list(range) FROM range(10_000_000)").fetchall()

    monkeypatch.setattr(app, "command_line", lambda _command: use_up)
    assert "set LAKESCORE_MEMORY_LIMIT (or memory_limit in job.toml) to twice" in cli("days", expect=OutOfMemory).stderr


@pytest.mark.slow
@pytest.mark.parametrize(("date", "works"), [(DAY, True), ("2025-01-01", False)])
def test_command_into_a_closed_pipe_ends_with_what_was_done(workspace: Workspace, date: str, *, works: bool) -> None:
    """The reader, such as `head`, has closed the pipe."""
    workspace.day(table(100))
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "run", "--job", "toy", "--date", date, "--json"],
        cwd=workspace.root,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=240,
        check=False,
    )
    os.close(writer)
    assert "Traceback" not in done.stderr
    assert (done.returncode in {1, 120}, workspace.run().up_to_date) == (True, works)


def test_hints_in_the_log_name_the_lake_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(next_steps, "_given", {"lake": "elsewhere"})
    said = logging.LogRecord("x", logging.WARNING, "", 0, "then: lakescore run --date %s", ("2026-01-01",), None)
    assert app.Hints("%(message)s").format(said) == "then: lakescore run --lake elsewhere --date 2026-01-01"
