"""docs/clients.md: lake.duckdb through other programs and drivers, each in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.query.catalog import write_catalog
from tests.docs import documented

DOCUMENT = documented.DOCS / "clients.md"
BLOCK = re.compile(r"```python\n(?P<code>.*?)```\n```output\n(?P<output>.*?)```", re.DOTALL)
SNIPPETS = [match["code"] for match in BLOCK.finditer(DOCUMENT.read_text("utf-8"))]
COMMANDS = [command for command in documented.examples("clients.md") if command.startswith("duckdb ")]
PROGRAM = Path(sys.executable).parent / "duckdb"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("clients")
    write_catalog(documented.example_lake(made / "lake"))
    return made


def printed(folder: Path, *command: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_command_line_prints_what_is_documented(folder: Path, command: str) -> None:
    documented.check("clients.md", command, lambda _, *arguments: printed(folder, str(PROGRAM), *arguments))


@pytest.mark.parametrize("code", SNIPPETS, ids=["duckdb", "sqlalchemy", "adbc"])
def test_driver_prints_what_is_documented(folder: Path, code: str) -> None:
    found = printed(folder, sys.executable, "-W", "error", "-c", code)
    text = DOCUMENT.read_text("utf-8")
    if os.environ.get("UPDATE_DOCS"):
        text = BLOCK.sub(lambda m: f"```python\n{code}```\n```output\n{found}```" if m["code"] == code else m[0], text)
        DOCUMENT.write_text(text, "utf-8")
    assert next(match["output"] for match in BLOCK.finditer(text) if match["code"] == code) == found


def test_commands_are_found() -> None:
    assert len(COMMANDS) == 5
