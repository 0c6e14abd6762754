"""Mistakes of a first hour: each is answered by a message that names it, an exit code, and nothing written.

Where one command repairs it, the printed one is run, and the mistake is gone.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from pipeline.lake.layout import Lake
from tests.calling import Cli
from tests.workspace import DAY, Workspace, table

TOY = ("--job", "toy")
ON = (*TOY, "--date", DAY)
NEXT = re.compile(r"^  next +(.*)$", re.MULTILINE)

MISTAKES = {
    "a job that is misspelt": (("run", "--job", "toi", "--date", DAY), 2, "no job is called 'toi', did you mean 'toy'"),
    "an option that is misspelt": (("run", "--jbo", "toy"), 2, "No such option"),
    "a day that is no day": (("run", *TOY, "--date", "31.01.2026"), 2, "31.01.2026"),
    "a day in the future": (("run", *TOY, "--date", "2126-01-31"), 2, "2126-01-31 lies in the future"),
    "a day without input": (("run", *TOY, "--date", "2026-01-09"), 1, "there is no input for 2026-01-09"),
    "another lake": (("plan", *ON, "--lake", "lak"), 2, "there is no lake here"),
    "another lake to write into": (("import", "good.csv", *ON, "--lake", "lak"), 2, "add --create"),
    "a file that is not there": (("import", "gone.csv", *ON), 1, "gone.csv"),
    "a day that has files": (("import", "good.csv", *ON), 2, "already has files"),
    "no day": (("import", "good.csv", *TOY), 2, "an import needs the day of the rows"),
    "a misspelt column": (("import", "misspelt.csv", *ON, "--replace"), 1, "--rename aa=a"),
    "text in a feature": (("import", "text.csv", *ON, "--replace"), 1, "text.csv"),
    "no header": (("import", "headless.csv", *ON, "--replace"), 1, "does not look like a header"),
    "decimal commas": (("import", "commas.csv", *ON, "--replace"), 1, "--decimal ,"),
    "another delimiter": (("import", "carets.csv", *ON, "--replace"), 1, "--delimiter"),
    "an empty file": (("import", "empty.csv", *ON, "--replace"), 1, "empty.csv"),
    "a column to divide by that is not there": (
        ("import", "good.csv", *TOY, "--partition-by", "dya"),
        2,
        "no column is called 'dya'",
    ),
    "a version that is not registered": (("models", "promote", "toy", "v99"), 1, "no version or alias 'v99'"),
    "a model that is not registered": (("models", "show", "toi"), 1, "no model is called 'toi', did you mean 'toy'"),
    "no model file": (("models", "register", "gone.pt", "--name", "x", "--version", "v1"), 2, "gone.pt"),
    "a query that writes": (("query", "DROP TABLE predictions"), 2, "SELECT"),
    "a misspelt column in a query": (("query", "SELECT predicton FROM predictions"), 2, "predicton"),
    "a run that is not there": (("rollback", "20260101T000000000Z-00000000"), 2, "lakescore runs"),
    "a release of a key that is not in quarantine": (("quarantine", "release", "u1", *ON), 2, "no row with the key"),
    "a key that is not there": (("explain", "nobody", *TOY), 2, "nobody"),
    "drift of a day without a run": (("drift", *ON), 1, "no run of toy is complete"),
    "labels of a day without a day": (("labels", "import", "good.csv", "--label", "a", *TOY), 2, "needs the day"),
    "a folder that is not empty": (("init",), 2, "the folder is not empty"),
}


@pytest.fixture
def beginner(workspace: Workspace) -> Workspace:
    """A project with a day of input that was not run, and files with mistakes."""
    workspace.day(table(20))
    Lake.open(workspace.settings.lake).prepare()
    files = {
        "good": "id,a,b\nx1,1.5,2.5\nx2,2.5,3.5\n",
        "misspelt": "id,aa,b\nx1,1.5,2.5\n",
        "text": "id,a,b\nx1,lots,2.5\n",
        "headless": "x1,1.5,2.5\nx2,1.5,2.5\n",
        "commas": "id;a;b\nx1;1,5;2,5\nx2;2,5;3,5\n",
        "carets": "id^a^b\nx1^1.5^2.5\n",
        "empty": "",
    }
    for name, text in files.items():
        (workspace.root / f"{name}.csv").write_text(text)
    return workspace


def everything(root: Path) -> dict[str, bytes]:
    """Returns all files with their contents, without those that say that a lake can be written to."""
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and ".staging" not in path.parts]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_named_and_nothing_is_written(beginner: Workspace, cli: Cli, mistake: str) -> None:
    command, code, said = MISTAKES[mistake]
    before = everything(beginner.root)
    done = cli(*command, expect=code)
    assert said in done.stderr
    assert everything(beginner.root) == before


@pytest.mark.parametrize("mistake", ["a misspelt column", "decimal commas", "another delimiter"])
def test_option_that_an_import_prints_repairs_it(beginner: Workspace, cli: Cli, mistake: str) -> None:
    command, code, _ = MISTAKES[mistake]
    printed = NEXT.findall(cli(*command, expect=code).stderr)[0]
    options = shlex.split(re.findall(r"--(?:rename|decimal|delimiter) [^\s;]+", printed)[0])
    assert re.search(r"[12] rows?, 1 file", cli(*command, *options).stdout)


@pytest.mark.parametrize(
    ("mistake", "values"),
    [
        ("a day without input", {"FILES": "good.csv"}),
        ("drift of a day without a run", {}),
        ("a release of a key that is not in quarantine", {}),
    ],
)
def test_command_that_is_printed_as_the_next_step_repairs_it(
    beginner: Workspace, cli: Cli, mistake: str, values: dict[str, str]
) -> None:
    command, code, said = MISTAKES[mistake]
    (printed,) = NEXT.findall(cli(*command, expect=code).stderr)
    step = shlex.split(re.split(r"[,;]", printed)[0])[1:]
    cli(*(values.get(word, word) for word in step))
    if mistake != "a release of a key that is not in quarantine":  # there is none: the step shows what there is
        assert said not in cli(*command).stderr
