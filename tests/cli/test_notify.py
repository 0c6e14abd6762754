"""`lakescore notify`: its options."""

from __future__ import annotations

import json

from tests.calling import Cli
from tests.notify.table import told
from tests.workspace import DAY, Workspace


def test_notify_unless_complete_sends_only_for_an_incomplete_day(workspace: Workspace, cli: Cli) -> None:
    told(workspace)
    workspace.day(5)
    command = ("notify", "--date", DAY, "--job", "toy", "--unless-complete", "--json")
    found = json.loads(cli(*command).stdout)
    assert found["level"] == "failure"
    assert "is not complete" in "\n".join(found["lines"])
    workspace.run()
    assert cli(*command).stdout == ""


def test_notify_of_a_day_that_was_skipped_is_no_failure(workspace: Workspace, cli: Cli) -> None:
    told(workspace)
    toml = workspace.settings.jobs / "toy" / "job.toml"
    toml.write_text(toml.read_text().replace("[policy]", '[policy]\nmissing_input = "skip"'))
    command = ("notify", "--date", DAY, "--job", "toy", "--json")
    assert json.loads(cli(*command).stdout)["level"] == "failure"  # nobody has looked for the input yet
    assert f"{DAY}: skipped, there is no input" in cli("run", "--date", DAY, "--job", "toy").stdout
    found = json.loads(cli(*command).stdout)
    assert (found["level"], found["title"]) == ("success", f"toy {DAY}: skipped")
    assert cli(*command, "--unless-complete").stdout == ""
    workspace.day(5)
    assert json.loads(cli(*command).stdout)["level"] == "failure"


def test_notify_of_a_day_whose_input_is_refused_is_a_failure(workspace: Workspace, cli: Cli) -> None:
    told(workspace)
    (workspace.day(5).parent / "gone.parquet").symlink_to("nowhere")
    found = json.loads(cli("notify", "--date", DAY, "--job", "toy", "--json").stdout)
    assert found["level"] == "failure"
