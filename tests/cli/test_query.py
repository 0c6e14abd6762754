"""`lakescore query` and `lakescore catalog`: their options. test_rows.py is about how rows come out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.errors import UsageError
from tests import lakes
from tests.calling import Cli
from tests.cli.conftest import DAYS
from tests.conftest import Lakescore
from tests.query.test_catalog import client

pytestmark = pytest.mark.usefixtures("two_days")


def test_cli_lists_queries_with_their_parameters(cli: Cli) -> None:
    assert "prediction_history" in cli("query", "--list").stdout
    listed = {each["name"]: each for each in json.loads(cli("query", "--list", "--json").stdout)["queries"]}
    assert listed["compare_days"]["parameters"]["from"]["meaning"] == "the earlier day"


def test_cli_job_is_the_parameter_of_a_named_query(cli: Cli) -> None:
    assert len(json.loads(cli("query", "daily_summary", "--param", "job=churn", "--json").stdout)) == 2
    assert json.loads(cli("query", "daily_summary", "--param", "job=other", "--json").stdout) == []


@pytest.mark.usefixtures("churn")
def test_cli_unscored_is_the_input_of_the_job(cli: Cli) -> None:
    text = "SELECT ds, count(*) AS n FROM unscored GROUP BY ds ORDER BY ds"
    rows = json.loads(cli("query", text, "--job", "churn", "--json").stdout)
    assert rows == [{"ds": DAYS[0], "n": 3}, {"ds": DAYS[1], "n": 3}]
    tables = json.loads(cli("query", "SHOW TABLES", "--job", "churn", "--json").stdout)
    assert {"name": "unscored"} in tables


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["daily_sumary"], "did you mean 'daily_summary'"),
        (["daily_summary", "--format", "xml"], "unknown format 'xml'"),
        (["daily_summary", "--format", "table", "--output", "x"], "a table cannot be written to a file"),
        (["daily_summary", "--param", "ds"], "NAME=VALUE"),
        (["SELECT 1", "--param", "x=1"], "argument count mismatch"),
    ],
)
def test_cli_wrong_usage_is_explained(cli: Cli, arguments: list[str], message: str) -> None:
    assert message in cli("query", *arguments, expect=UsageError).stderr


def test_catalog_command_of_a_relative_lake_gives_absolute_paths(cli: Cli, churn: None, tmp_path: Path) -> None:
    lakes.add_day(lakes.open_lake(tmp_path / "the lake's"), DAYS[0])
    done = cli("catalog", "--lake", "the lake's", "--job", "churn", "--json")
    path = Path(json.loads(done.stdout)["path"])
    assert path == tmp_path / "the lake's" / "lake.duckdb"
    assert client(path, "SELECT count(*) FROM predictions", "SELECT count(*) FROM unscored") == [[[3]], [[3]]]


# One step of DuckDB, within which it looks at no limit. A process of its own each: the second one has to end.


@pytest.mark.slow
def test_query_of_one_huge_value_stays_within_the_memory(lakescore: Lakescore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKESCORE_MEMORY_LIMIT", "400MB")
    done = lakescore("query", "SELECT len(list_sort(range(300000000)))", expect=2)
    assert "the query needs more memory than 400MB" in done.stderr


@pytest.mark.slow
def test_query_of_one_endless_value_ends_the_process(lakescore: Lakescore) -> None:
    text = "SELECT levenshtein(repeat('a', 2000000), repeat('b', 2000000))"
    done = lakescore("query", text, "--timeout", 0.5, "--json", expect=2)
    assert "the query took longer than 0.5 s" in done.stderr
    assert json.loads(done.stdout)["what"] == "the query took longer than 0.5 s"
