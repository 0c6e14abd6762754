"""An import for a job checks columns and types against the job and its model before anything is stored."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from pipeline.errors import LakescoreError, SchemaMismatch, UsageError
from tests.calling import Cli
from tests.workspace import DAY, Workspace

GOOD = "id,a,b\nu1,1.5,2\nu2,2.5,3\n"
WRONG = {
    "a misspelt column": (GOOD.replace("b\n", "bb\n", 1), "x.csv, line 1", "'b'", "--rename bb=b"),
    "other capitals": (GOOD.replace("id", "ID", 1), "x.csv, line 1", "'id'", "--rename ID=id"),
    "text in a feature": (GOOD.replace("3", "three"), "x.csv, line 3", "'three'", ""),
    "decimal commas": ("id;a;b\nu1;1,5;2\n", "x.csv, line 2", "'1,5'", "--decimal ,"),
    "another delimiter": (GOOD.replace(",", "^"), "x.csv, line 1", "none of the delimiters", "--delimiter '^'"),
    "no header": ("1,1.5,2\n2,2.5,3\n", "x.csv, line 1", "does not look like a header", ""),
    "a missing column": ("id,a,c\nu1,1.5,2\n", "x.csv, line 1", "needs 'b'", ""),
}


@pytest.fixture
def imported(workspace: Workspace, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.chdir(workspace.root)
    return workspace


def bring(cli: Cli, *options: str, expect: type[LakescoreError] | int = 0) -> str:
    done = cli("import", "x.csv", "--date", DAY, "--job", "toy", *options, expect=expect)
    return re.sub(r"\s+", " ", done.stderr + done.stdout)


@pytest.mark.parametrize("case", WRONG)
def test_file_that_job_or_model_cannot_use_is_refused_and_the_printed_option_mends_it(
    imported: Workspace, cli: Cli, case: str
) -> None:
    content, place, what, option = WRONG[case]
    (imported.root / "x.csv").write_text(content)
    said = bring(cli, expect=SchemaMismatch)
    assert place in said
    assert what in said
    assert not (imported.lake / "unscored").exists() or not list((imported.lake / "unscored").iterdir())
    if option:
        assert option in said
        bring(cli, *shlex.split(option))
        assert imported.complete().ledger is not None
    else:
        assert "--unchecked" in said or case == "text in a feature"
        bring(cli, "--unchecked")


def test_columns_are_checked_against_the_job_alone_while_its_model_is_not_registered(
    imported: Workspace, cli: Cli
) -> None:
    imported.job(model="later", reads='carry = ["c"]')
    (imported.root / "x.csv").write_text(GOOD)
    assert "'c'" in bring(cli, expect=SchemaMismatch)
    (imported.root / "x.csv").write_text("id,a,b,c\nu1,1,2,x\n")
    bring(cli)


def test_parquet_and_select_and_folder_columns(imported: Workspace, cli: Cli) -> None:
    path = imported.root / "day.parquet"
    imported.day({"id": ["u1"], "a": ["x"], "b": [1.0]}).rename(path)
    for step in (imported.lake / "unscored").glob("*"):
        step.rmdir()
    said = cli("import", path, "--date", DAY, "--job", "toy", expect=SchemaMismatch).stderr
    assert "a VARCHAR" in said
    folder = imported.job()
    text = (folder / "job.toml").read_text().replace('path = "unscored/ds={ds}/*.parquet"', 'select = "rows.sql"')
    (folder / "job.toml").write_text(text + '\n[input.sources]\nrows = "unscored/ds={ds}/*.parquet"\n')
    (folder / "rows.sql").write_text("SELECT id, 1.0 AS a, b FROM rows")
    cli("import", path, "--date", DAY, "--job", "toy")


@pytest.mark.parametrize("option", ["x=id", "bb=", "bb", "bb=b,bb=c", "bb=id"])
def test_rename_that_is_not_clear_is_refused(imported: Workspace, cli: Cli, option: str) -> None:
    (imported.root / "x.csv").write_text(GOOD.replace("b\n", "bb\n", 1))
    assert "--rename" in bring(cli, "--rename", option, expect=UsageError)


def test_renamed_column_has_its_place_and_its_type(imported: Workspace, cli: Cli, tmp_path: Path) -> None:
    (imported.root / "x.csv").write_text("customer,a,score\n007,1,x\n")
    renames = ("--rename", "customer=id,score=b")
    assert "x.csv, line 2" in bring(cli, *renames, expect=SchemaMismatch)
    (imported.root / "x.csv").write_text("customer,a,score\n7,1,\n")
    assert "id VARCHAR, a BIGINT, b DOUBLE" in bring(cli, *renames, "--types", "customer=VARCHAR")
