"""`lakescore init --example`: what it writes and says. tests/docs/test_examples.py runs what it says."""

from __future__ import annotations

import shlex
import tomllib
from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.job.loading import read_job
from pipeline.packaged import examples, resources
from pipeline.settings import Settings
from tests.calling import Cli

NAMES = sorted(examples())
SCRIPT_LINES, JOB_LINES, SAME_LINES = 80, 100, 8


@pytest.mark.parametrize("name", NAMES)
def test_example_is_written_with_a_job_that_can_be_read_and_the_dag(cli: Cli, tmp_path: Path, name: str) -> None:
    said = cli("init", "--example", name).stdout
    job = read_job(tmp_path / "dags" / "jobs" / name, Settings())
    assert job.name == name
    for file in ("batch_inference.py", ".airflowignore"):
        assert (tmp_path / "dags" / file).read_bytes() == (resources() / "dags" / file).read_bytes()
    written = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    assert {Path(line.strip()) for line in said.splitlines() if Path(line.strip()) in written} == written


@pytest.mark.parametrize("name", NAMES)
def test_example_ends_with_the_two_commands_as_they_are_to_be_typed(cli: Cli, tmp_path: Path, name: str) -> None:
    first, second = cli("init", "--example", name).stdout.partition("Next:\n")[2].splitlines()
    program, script = shlex.split(first)
    assert program == "python"
    assert (tmp_path / script).is_file()
    assert shlex.split(second)[0] == "lakescore"
    assert f"--job {name}" in second


def test_new_folder_is_entered_by_the_first_command_whatever_its_name(cli: Cli, tmp_path: Path) -> None:
    said = cli("init", "--example", "risk", "my first/job").stdout
    assert "\n  cd 'my first/job' && python risk.py\n" in said
    assert (tmp_path / "my first" / "job" / "risk.py").is_file()


@pytest.mark.parametrize("name", NAMES)
def test_folder_stands_in_the_job_whatever_its_name(cli: Cli, tmp_path: Path, name: str) -> None:
    folder = tmp_path / 'a "quoted\\ \x7f name'
    cli("init", "--example", name, folder)
    text = (folder / "dags" / "jobs" / name / "job.toml").read_text("utf-8")
    places = [each["to"] for each in tomllib.loads(text).get("publish", []) if "to" in each]
    assert "{folder}" not in text
    assert all(Path(place).parent == folder for place in places)


def test_folder_with_files_is_left_alone(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("keep")
    error = cli("init", "--example", "risk", expect=UsageError).stderr
    assert "not empty" in error
    assert "notes.txt" in error
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_hidden_files_do_not_count_and_none_is_overwritten(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "pyvenv.cfg").write_text("keep")
    cli("init", "--example", "risk")
    assert (tmp_path / ".venv" / "pyvenv.cfg").read_text() == "keep"
    assert (tmp_path / "risk.py").is_file()


@pytest.mark.parametrize("place", ["notes.txt", "notes.txt/new"])
def test_file_in_place_of_the_folder_is_refused(cli: Cli, tmp_path: Path, place: str) -> None:
    (tmp_path / "notes.txt").write_text("keep")
    assert "notes.txt" in cli("init", "--example", "risk", place, expect=1 if "/" in place else UsageError).stderr
    assert (tmp_path / "notes.txt").read_text() == "keep"


def test_unknown_example_is_refused_with_the_known_ones(cli: Cli, tmp_path: Path) -> None:
    error = cli("init", "--example", "rsk", expect=UsageError).stderr
    assert "did you mean 'risk'?" in error
    assert all(f"{name} (" in error for name in NAMES)
    assert not list(tmp_path.iterdir())


def test_examples_are_named_after_a_bare_project_is_made(cli: Cli) -> None:
    assert "lakescore init --example NAME; " + ", ".join(NAMES) in cli("init").stdout


@pytest.mark.parametrize("name", NAMES)
def test_example_is_small(name: str) -> None:
    folder = examples()[name]
    for script in folder.glob("*.py"):
        assert lines_of(script) < SCRIPT_LINES, script.name
    assert sum(map(lines_of, (folder / "job").iterdir())) < JOB_LINES


def test_examples_share_no_copied_lines() -> None:
    runs: dict[tuple[str, ...], str] = {}
    for name, folder in examples().items():
        for path in (path for path in folder.rglob("*") if path.is_file()):
            lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
            lines = [line for line in lines if line and not line.startswith(("import ", "from "))]
            for first in range(len(lines) - SAME_LINES + 1):
                run = tuple(lines[first : first + SAME_LINES])
                assert runs.setdefault(run, name) == name, f"{runs[run]} and {name} share lines: {run}"


def lines_of(path: Path) -> int:
    return len(path.read_text("utf-8").splitlines())
