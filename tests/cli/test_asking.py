"""A lake that is not there, and a day in the future: refused, or asked about where a person can answer."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.cli import asking
from pipeline.errors import UsageError
from tests.calling import Cli
from tests.workspace import DAY, Workspace

TOY = ("--job", "toy")
READING = [
    ("plan", *TOY),
    ("validate", *TOY),
    ("status", *TOY),
    ("query", "daily_summary"),
    ("quarantine", "list", *TOY),
    ("drift", *TOY),
    ("report", *TOY),
    ("explain", "u1", *TOY),
    ("rollback", "20260101T000000000Z-00000000"),
    ("verify",),
    ("clean",),
    ("erase", "u1", *TOY),
]
TOMORROW = f"{datetime.now(UTC) + timedelta(days=2):%Y-%m-%d}"


@pytest.fixture
def csv(workspace: Workspace) -> Path:
    path = workspace.root / "rows.csv"
    path.write_text("id,a,b\nx1,1.5,2.5\nx2,2.5,3.5\n")
    return path


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """The answers of a person on a terminal."""
    given: list[bool] = []

    def confirm(question: str, **_: object) -> None:
        if not given.pop(0):
            raise SystemExit(1)

    monkeypatch.setattr(asking, "on_a_terminal", lambda: True)
    monkeypatch.setattr("typer.confirm", confirm)
    return given


@pytest.mark.parametrize("command", READING, ids=lambda words: words[0])
def test_lake_that_is_not_there_is_refused_by_what_reads_it(
    workspace: Workspace, cli: Cli, command: tuple[str, ...]
) -> None:
    said = cli(*command, "--lake", "lak", expect=UsageError).stderr
    assert f"there is no lake here\n  where     {workspace.root}/lak\n" in said
    assert not (workspace.root / "lak").exists()


def test_new_lake_named_by_an_option_needs_create(workspace: Workspace, cli: Cli, csv: Path) -> None:
    command = ("import", csv, "--date", DAY, *TOY, "--lake", "other")
    said = cli(*command, expect=UsageError).stderr
    assert "next      add --create to make one, or correct --lake" in said
    assert not (workspace.root / "other").exists()
    assert "2 rows" in cli(*command, "--create").stdout
    assert "2 rows" in cli(*command, "--replace").stdout  # now it is there


def test_new_lake_is_asked_about_on_a_terminal(workspace: Workspace, cli: Cli, csv: Path, answers: list[bool]) -> None:
    command = ("import", csv, "--date", DAY, *TOY, "--lake", "other")
    answers.append(False)
    cli(*command, expect=1)
    assert not (workspace.root / "other").exists()
    answers.append(True)
    cli(*command)
    assert (workspace.root / "other").is_dir()


def test_lake_of_a_project_is_made_where_it_belongs_and_it_is_said(workspace: Workspace, cli: Cli, csv: Path) -> None:
    assert f"a new lake: {workspace.root}/lake\n" in cli("import", csv, "--date", DAY, *TOY).stderr
    assert "a new lake" not in cli("import", csv, "--date", DAY, *TOY, "--replace").stderr


def test_lake_is_not_made_outside_of_a_project(cli: Cli, tmp_path: Path) -> None:
    assert "--create" in cli("generate", "--date", DAY, "--rows", 10, expect=UsageError).stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["import", "generate", "run"])
def test_day_in_the_future_is_refused_unless_it_is_meant(workspace: Workspace, cli: Cli, csv: Path, what: str) -> None:
    workspace.day(3)
    if what == "run":
        workspace.day(3, TOMORROW)
    command = {"import": ("import", csv, *TOY), "generate": ("generate", "--rows", 10), "run": ("run", *TOY)}[what]
    before = workspace.files()
    said = cli(*command, "--date", TOMORROW, expect=UsageError).stderr
    assert f"{TOMORROW} lies in the future" in said
    assert "next      correct --date, or add --future if it is meant" in said
    assert workspace.files() == before
    cli(*command, "--date", TOMORROW, "--future")


def test_day_in_the_future_is_asked_about_on_a_terminal(
    workspace: Workspace, cli: Cli, csv: Path, answers: list[bool]
) -> None:
    workspace.day(3)
    answers.append(False)
    cli("import", csv, "--date", TOMORROW, *TOY, expect=1)
    assert not (workspace.lake / "unscored" / f"ds={TOMORROW}").exists()
    answers.append(True)
    assert "2 rows" in cli("import", csv, "--date", TOMORROW, *TOY).stdout


def test_folder_of_models_that_does_not_exist_is_named(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKESCORE_MODELS", "/nope")
    said = cli("models", "list").stderr
    assert "no model is registered in /nope, a folder that does not exist: correct LAKESCORE_MODELS" in said
