"""`lakescore validate`, `suite` and `quarantine`; and nothing that leaves the machine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import JobError, QualityStop
from tests.calling import Cli
from tests.conftest import Lakescore
from tests.quality.test_examine import BETWEEN, rule, suite
from tests.workspace import DAY, Workspace, changed, table

NO_NETWORK = """
import sys
def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        raise SystemExit(f"traffic: {event} {arguments[1:]}")
sys.addaudithook(refuse)
sys.argv = ["lakescore", *sys.argv[1:]]
from pipeline.cli.app import main
main()
"""


def test_validate_bad_day_exits_with_3_and_names_the_check(cli: Cli, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.job()
    suite(workspace, rule("expect_column_mean_to_be_between", column="a", min_value=1000, meta={"name": "mean_of_a"}))
    workspace.day(50)
    done = cli("validate", "--job", "toy", "--date", DAY, expect=QualityStop)
    assert "mean_of_a" in done.stderr


@pytest.mark.slow
def test_quarantine_shows_rows_with_their_reasons_and_releases_them(workspace: Workspace, cli: Cli) -> None:
    suite(workspace, rule(BETWEEN, column="a", max_value=50, meta={"name": "a_range"}))
    workspace.day(changed(changed(table(10), "a", {0: 99.0}), "b", {1: None}))
    workspace.run()
    toy = ("--job", "toy", "--json")
    counted = json.loads(cli("quarantine", "list", *toy).stdout)
    assert {(each["ds"], each["reason"], each["rows"]) for each in counted} == {(DAY, "a_range", 1), (DAY, "null:b", 1)}
    (row,) = json.loads(cli("quarantine", "show", "--date", DAY, "--reason", "a_range", *toy).stdout)
    assert (row["id"], row["a"], row["reasons"]) == ("u0", 99.0, ["a_range"])
    done = cli("quarantine", "release", "u0", "--date", DAY, "--job", "toy")
    assert done.stdout == f"1 row released; lakescore run --job toy --date {DAY} scores it\n"
    workspace.run()
    assert [each["reason"] for each in json.loads(cli("quarantine", "list", *toy).stdout)] == ["null:b"]


def test_suite_init_writes_a_suite_that_check_accepts(workspace: Workspace, cli: Cli) -> None:
    workspace.day(200)
    done = cli("suite", "init", "--date", DAY, "--job", "toy")
    assert done.stdout == "wrote dags/jobs/toy/input.json; now edit it\n"
    checked = cli("suite", "check", "--job", "toy").stdout
    assert checked == "input.json: 5 expectations, output.json: 0 expectations; no mistakes found\n"
    validated = cli("validate", "--date", DAY, "--job", "toy").stdout
    assert re.search(r"^(\d+) of \1 checks passed\n$", validated)


@pytest.mark.slow
def test_commands_validate_run_and_ask_without_any_traffic(lakescore: Lakescore, tmp_path: Path) -> None:
    """Runs with every attempt to connect or to look up a host name ending the process."""
    lakescore("demo", "--dir", "d", "--rows", 500)

    def call(*arguments: str) -> Any:
        command = [sys.executable, "-c", NO_NETWORK, *arguments]
        done = subprocess.run(command, cwd=tmp_path / "d", capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    call("generate", "--date", "2026-01-03", "--rows", "500", "--json")
    (outcome,) = call("run", "--date", "2026-01-03", "--json")
    assert {"gx", "sql", "plan", "model"} == {check["engine"] for check in outcome["checks"]}
    assert {check["name"] for check in call("validate", "--date", "2026-01-03", "--json")} >= {"age_range", "row_count"}
    trend = call("query", "quality_trend", "--param", "check_name=age_range", "--format", "json")
    assert [(row["ds"], row["outcome"]) for row in trend] == [(f"2026-01-0{day}", "passed") for day in (1, 2, 3)]
    assert call("suite", "check", "--json") == {"input": 9, "output": 2}


def test_quarantine_names_the_day_that_was_stopped_for_another_reason(workspace: Workspace, cli: Cli) -> None:
    suite(workspace, rule("expect_column_mean_to_be_between", column="a", min_value=1000, meta={"name": "mean_of_a"}))
    workspace.day(50)
    cli("run", "--job", "toy", "--date", DAY, expect=QualityStop)
    step = f"lakescore plan --check --job toy --date {DAY}"
    for command in (("list",), ("show", "--date", DAY), ("show", "--date", DAY, "--reason", "mean_of_a")):
        said = cli("quarantine", *command, "--job", "toy").stdout
        assert f"the last run of {DAY} was stopped by its checks: {step}" in said
        (page,) = re.findall(r"and (\S+\.html) say why", said)
        assert (workspace.root / page).is_file()


def test_quarantine_show_of_a_day_that_was_stopped_by_its_rows_says_where_they_are(
    workspace: Workspace, cli: Cli
) -> None:
    workspace.job(policy='null_features = "quarantine"').joinpath("job.toml")
    toml = workspace.settings.jobs / "toy" / "job.toml"
    toml.write_text(toml.read_text().replace("max_quarantined = 1.0", "max_quarantined = 0.01"))
    workspace.day(changed(table(10), "a", {0: None}))
    cli("run", "--job", "toy", "--date", DAY, expect=QualityStop)
    said = cli("quarantine", "show", "--date", DAY, "--reason", "null:a", "--job", "toy").stdout
    assert f"lakescore plan --job toy --date {DAY} shows them" in said


def test_run_misspelt_column_of_the_suite_is_a_mistake_in_the_suite(workspace: Workspace, cli: Cli) -> None:
    suite(workspace, rule("expect_column_mean_to_be_between", column="aa", min_value=0, meta={"name": "m"}))
    workspace.day(50)
    said = cli("run", "--job", "toy", "--date", DAY, expect=JobError).stderr
    assert "m: there is no column 'aa', did you mean 'a'?" in said
    assert "input.json" in said
