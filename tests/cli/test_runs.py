"""`lakescore runs`, and `rollback --date`, called as commands."""

from __future__ import annotations

import json

import pytest

from pipeline.errors import UsageError
from tests.calling import Cli
from tests.workspace import DAY, Workspace, changed, table

NEXT_DAY = "2026-01-02"


@pytest.mark.slow
def test_runs_are_shown_newest_first_with_what_went_wrong(workspace: Workspace, cli: Cli) -> None:
    workspace.day(50)
    first = workspace.complete()
    rows = table(50)
    workspace.day(changed(rows, "a", {0: 5.0}))
    second = workspace.complete()
    path = workspace.settings.jobs / "toy" / "job.toml"
    text = path.read_text("utf-8").replace("max_quarantined = 1.0", "max_quarantined = 0.1")
    path.unlink()
    path.write_text(text, "utf-8")
    workspace.day(changed(rows, "a", dict.fromkeys(range(50))), NEXT_DAY)  # each row lacks a feature
    cli("run", "--job", "toy", "--date", NEXT_DAY, expect=3)
    found = json.loads(cli("runs", "--job", "toy", "--json").stdout)
    assert [(each["ds"], each["state"], each["scored"]) for each in found] == [
        (NEXT_DAY, "stopped", None),
        (DAY, "complete", 1),
        (DAY, "complete", 50),
    ]
    assert [each["run_id"] for each in found[1:]] == [second.run_id, first.run_id]
    assert "quarantined" in found[0]["reason"]
    shown = cli("runs", "--job", "toy", "--state", "stopped").stdout
    assert found[0]["run_id"] in shown
    assert first.run_id not in shown
    shown = cli("runs", "--job", "toy", "--date", DAY, "--last", 1).stdout
    assert second.run_id in shown
    assert "these are the newest 1 run; --last shows more" in shown
    assert "toy has no such runs" in cli("runs", "--job", "toy", "--from", "2026-02-01").stdout
    cli("runs", "--job", "toy", "--date", DAY, "--from", DAY, expect=UsageError)


@pytest.mark.slow
def test_rollback_by_date_takes_back_the_run_that_finished_last(workspace: Workspace, cli: Cli) -> None:
    rows = table(50)
    workspace.day(rows)
    first = workspace.complete()
    workspace.day(changed(rows, "a", {0: 5.0}))
    second = workspace.complete()
    assert f"{second.run_id} of {DAY} is rolled back" in cli("rollback", "--job", "toy", "--date", DAY).stdout
    states = {each["run_id"]: each["state"] for each in json.loads(cli("runs", "--job", "toy", "--json").stdout)}
    assert states == {first.run_id: "complete", second.run_id: "rolled_back"}
    cli("rollback", "--job", "toy", "--date", DAY)
    assert "no run of toy is complete on 2026-01-01" in cli("rollback", "--job", "toy", "--date", DAY, expect=1).stderr
    cli("rollback", second.run_id, "--date", DAY, expect=UsageError)
    cli("rollback", expect=UsageError)
