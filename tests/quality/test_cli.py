"""validate, suite and quarantine on the command line; and nothing that leaves the machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import JobError, UsageError
from pipeline.quality import quarantine
from pipeline.quality.suite import load, parse
from tests.conftest import Lakescore
from tests.quality.test_input import BETWEEN, rule, suite
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


def test_run_released_row_is_scored_in_spite_of_the_rule(workspace: Workspace) -> None:
    suite(workspace, rule(BETWEEN, column="a", max_value=50, meta={"name": "a_range"}))
    workspace.day(changed(table(10), "a", {0: 99.0, 1: 99.0}))
    workspace.run()
    ctx = workspace.context()
    assert quarantine.days(ctx) == [(DAY, "a_range", 2)]
    assert quarantine.release(ctx, DAY, ["u0"]) == 1
    ledger = workspace.complete().ledger
    assert ledger is not None
    assert (ledger.scored.rows, ledger.unchanged.rows, ledger.quarantined.rows) == (1, 8, 1)
    assert quarantine.days(ctx) == [(DAY, "a_range", 1)]
    assert workspace.run().up_to_date


def test_release_unknown_key_or_other_reason_is_refused(workspace: Workspace) -> None:
    suite(workspace, rule(BETWEEN, column="a", max_value=50, meta={"name": "a_range"}))
    workspace.day(changed(changed(table(10), "a", {0: 99.0}), "b", {1: None}))
    workspace.run()
    with pytest.raises(UsageError, match="'u9'"):
        quarantine.release(workspace.context(), DAY, ["u9"])
    with pytest.raises(UsageError, match="null:b"):
        quarantine.release(workspace.context(), DAY, ["u1"])


@pytest.mark.slow
def test_commands_validate_run_and_ask_without_any_traffic(lakescore: Lakescore, tmp_path: Path) -> None:
    """With every attempt to connect or to look up a name ending the process."""
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


def test_validate_bad_day_exits_with_3_and_names_the_check(lakescore: Lakescore, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.job()
    suite(workspace, rule("expect_column_mean_to_be_between", column="a", min_value=1000, meta={"name": "mean_of_a"}))
    workspace.day(50)
    done = lakescore("validate", "--job", "toy", "--date", DAY, expect=3)
    assert "mean_of_a" in done.stderr


def test_suite_init_proposes_what_the_day_passes(workspace: Workspace) -> None:
    from pipeline.quality import alone

    workspace.day(200)
    ctx = workspace.context()
    alone.propose(ctx, DAY)
    rules = load(ctx.job, "input")
    assert {item.name for item in rules} == {"id_unique", "a_not_null", "a_range", "b_not_null", "b_range"}
    assert alone.check_suites(workspace.context()) == {"input": 5, "output": 0}
    checks = [check for check in alone.validate(workspace.context(), DAY) if check.expectation != "built-in"]
    assert {check.outcome for check in checks} == {"passed"}
    with pytest.raises(UsageError, match="has a suite already"):
        alone.propose(workspace.context(), DAY)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ('{"expectation": []}', "did you mean 'expectations'"),
        ('{"expectations": [{"type": "expect_column_to_exits"}]}', "did you mean 'expect_column_to_exist'"),
        ('{"expectations": [{"type": "expect_column_to_exist", "kwargs": {"colum": "a"}}]}', "did you mean 'column'"),
        ('{"expectations": [{"type": "expect_column_to_exist"}]}', "`column` is missing"),
        (f'{{"expectations": [{{"type": "{BETWEEN}", "kwargs": {{"column": "a"}}}}]}}', "give min_value"),
        (
            '{"expectations": [{"type": "expect_column_to_exist", "kwargs": {"column": "a"}, "severity": "fatal"}]}',
            "severity",
        ),
    ],
)
def test_suite_mistake_is_told_at_once(text: str, message: str) -> None:
    with pytest.raises(JobError, match=message):
        parse(text, "input.json")


def test_suite_check_unknown_column_names_the_nearest(workspace: Workspace) -> None:
    from pipeline.quality import alone

    suite(workspace, rule(BETWEEN, column="aa", max_value=1))
    workspace.day(5)
    with pytest.raises(JobError, match="there is no column 'aa', did you mean 'a'"):
        alone.check_suites(workspace.context())


def test_switching_off_an_unknown_check_is_refused(workspace: Workspace) -> None:
    workspace.job(schedule='[quality]\noff = ["row_cuont"]')
    workspace.day(5)
    with pytest.raises(JobError, match="did you mean 'row_count'"):
        workspace.run()
