"""`lakescore rollback`, `verify`, `clean` and `erase`."""

from __future__ import annotations

import json

import pytest

from pipeline.errors import UsageError
from pipeline.lake.layout import Partition
from tests.calling import Cli
from tests.stages import scored
from tests.workspace import DAY, Workspace, changed, table


def test_verify_command_exits_3_and_repairs_a_mark_without_a_run(workspace: Workspace, cli: Cli) -> None:
    workspace.day(5)
    ctx = workspace.context()
    scored(ctx)
    mark = workspace.lake / Partition("toy", DAY, "v1").success
    mark.parent.mkdir(parents=True)
    mark.touch()
    (found,) = json.loads(cli("verify", "--json", expect=3).stdout)
    assert (found["kind"], found["repairable"]) == ("mark", True)
    cli("verify", "--repair")
    assert "no problems found" in cli("verify").stdout
    assert not mark.exists()


@pytest.mark.slow
def test_command_rollback_is_shown_by_status(workspace: Workspace, cli: Cli) -> None:
    rows = table(50)
    workspace.day(rows)
    workspace.run()
    workspace.day(changed(rows, "a", {0: 5.0, 1: 5.0, 2: None}))
    assert "rolled back" in cli("rollback", workspace.complete().run_id).stdout
    (day,) = json.loads(cli("status", "--job", "toy", "--json").stdout)["days"]
    assert (day["state"], day["last_state"]) == ("rolled_back", "rolled_back")
    assert "rolled back" in day["note"]
    cli("rollback", "nonsense", expect=UsageError)
    assert "and 1 old day would be removed" in cli("clean", "--job", "toy", "--dry-run", "--keep-days", 30).stdout


def test_command_rollback_says_what_there_was_to_do(workspace: Workspace, cli: Cli) -> None:
    workspace.day(5)
    ctx = workspace.context()
    without = scored(ctx)  # it has published nothing
    assert "it had published no rows, so predictions stay as they were" in cli("rollback", without.run_id).stdout
    run_id = workspace.complete().run_id
    assert "1 file emptied; `lakescore run` scores those rows again" in cli("rollback", run_id).stdout
    again = cli("rollback", run_id).stdout
    assert "an earlier call had emptied its files; nothing was left to do" in again
    assert "scores those rows again" not in again


def test_command_erase_tells_asks_and_exits_1_without_a_trace(
    workspace: Workspace, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace.day(50)
    workspace.run()
    told = json.loads(cli("erase", "u5", "--job", "toy", "--dry-run", "--json").stdout)
    assert (told["rows"], told["dry_run"]) == (1, True)
    assert "u5" not in str(told)
    monkeypatch.setattr("pipeline.cli.care.on_a_terminal", lambda: True)
    asked = cli("erase", "u5", "--job", "toy", expect=1)
    assert "Remove 1 row from 1 file?" in asked.stderr
    assert len(workspace.stored()) == 50, "without an answer, nothing is removed"
    assert "1 row removed from 1 file" in cli("erase", "u5", "--job", "toy", "--yes").stdout
    assert len(workspace.stored()) == 49
    assert "no trace of this key" in cli("erase", "u5", "--job", "toy", expect=1).stderr
    cli("erase", "u5,u6", "--job", "toy", expect=1)
