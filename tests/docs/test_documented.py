"""The examples in docs/queries.md are what the commands print; every named query has one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from pipeline.cli import query as commands
from pipeline.database import sql_files
from tests.docs import documented

QUERIES = {name: shown for name, shown in documented.examples("queries.md").items() if "lakescore query" in name}
NAMED = {command: match[1] for command in QUERIES if (match := re.match(r"lakescore query (\w+)", command))}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documented") / "lake"
    documented.example_lake(folder)
    return folder


@pytest.fixture(scope="module")
def of_tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks") / "lake"
    documented.example_lake_of_tasks(folder)
    return folder


OTHER_TASKS = ("value_distribution", "label_distribution", "item_distribution", "rankings", "error_trend", "rank_trend")
"""Their examples are of a lake of its own."""


@pytest.fixture
def cli(root: Path, of_tasks: Path) -> Any:
    app = typer.Typer()
    commands.add_to(app)

    def call(*arguments: str) -> str:
        lake = of_tasks if arguments[2] in OTHER_TASKS else root
        done = CliRunner().invoke(app, [*arguments[1:], "--lake", str(lake)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    return call


@pytest.mark.parametrize("command", [command for command in QUERIES if "--list" not in command])
def test_example_is_what_the_query_prints(cli: Any, command: str) -> None:
    documented.check("queries.md", command, cli)


def test_every_named_query_has_an_example() -> None:
    elsewhere = "".join((documented.DOCS / name).read_text("utf-8") for name in ("drift.md", "exports.md"))
    missing = [name for name in sql_files.named() if name not in NAMED.values() and name not in elsewhere]
    assert not missing, f"docs/queries.md has no example of {', '.join(missing)}"


def test_headings_name_the_parameters_of_the_queries() -> None:
    from pipeline.query.running import parameters_of

    text = (documented.DOCS / "queries.md").read_text("utf-8")
    for name in NAMED.values():
        its = parameters_of(sql_files.find(name))
        shown = " ".join(each if its[each].default is None else f"[{each}]" for each in its)
        assert f"### {name} `{shown}`" in text
