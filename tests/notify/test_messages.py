"""Messages without Airflow: their content, their delivery, and the stored outcome."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.calling import Cli
from tests.notify.table import told
from tests.orchestration.receivers import mail_server, web_hook
from tests.workspace import DAY, Workspace, changed, table

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Apprise imports what Python deprecates


def written(workspace: Workspace) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((workspace.lake / "notifications").rglob("*.json"))]


@pytest.mark.slow
def test_notify_complete_run_describes_the_run(workspace: Workspace, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    told(workspace, "HOOK", more="confidence_below = 0.0\nshare_above = 1.0")
    workspace.day(50)
    record = workspace.complete()
    with web_hook() as hook:
        monkeypatch.setenv("HOOK", hook.url)
        cli("notify", "--date", DAY, "--job", "toy")
    (received,) = hook.received
    assert (received["title"], received["type"]) == (f"toy {DAY}: 50 rows scored", "success")
    shares = ", ".join(f"{name}: {count / 50:.1%}" for name, count in record.statistics.classes.items())
    for part in (DAY, "toy v1", record.run_id, "50 candidates, 50 scored", shares, "Mean confidence: 0."):
        assert part in received["message"]


def test_notify_by_mail_reaches_an_smtp_server(workspace: Workspace, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    told(workspace, "MAIL")
    with mail_server() as inbox:
        url = f"mailto://127.0.0.1:{inbox.port}?from=us@example.org&to=night@example.org&mode=insecure"
        monkeypatch.setenv("MAIL", url)
        cli("notify", "--date", DAY, "--job", "toy", "--error", "the disk is gone")
    (text,) = inbox.about(f"toy {DAY}: failed")
    assert "the disk is gone" in text
    assert written(workspace)[0]["deliveries"] == [{"channel": "MAIL", "error": None}]


def test_notify_dead_and_missing_endpoints_fail_nothing_and_are_recorded(
    workspace: Workspace, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    told(workspace, "DEAD", "ABSENT", "WRONG")
    workspace.day(5)
    workspace.run()
    monkeypatch.setenv("DEAD", "json://127.0.0.1:9/")
    monkeypatch.setenv("WRONG", "no address")
    cli("notify", "--date", DAY, "--job", "toy")
    (found,) = written(workspace)
    errors = [each["error"] for each in found["deliveries"]]
    for error, part in zip(errors, ("did not answer", "is not set", "does not hold an Apprise URL"), strict=True):
        assert part in error


def test_notify_unusual_run_is_a_warning_with_reasons(workspace: Workspace, cli: Cli) -> None:
    told(workspace, more="confidence_below = 1.0\nshare_above = 0.0")
    workspace.day({"id": ["a", "b", "c"], "a": [1.0, None, 2.0], "b": [1.0, 1.0, 2.0]})
    workspace.run()
    found = json.loads(cli("notify", "--date", DAY, "--job", "toy", "--json").stdout)
    assert found["level"] == "warning"
    text = "\n".join(found["lines"])
    for part in ("mean confidence 0.", "% of the predictions of the day are", "1 row in quarantine"):
        assert part in text


@pytest.mark.slow
def test_notify_judges_the_predictions_of_the_day_not_the_row_scored_last(workspace: Workspace, cli: Cli) -> None:
    told(workspace, more="confidence_below = 0.0\nshare_above = 0.99")
    rows = table(40)
    workspace.day(rows)
    first = workspace.complete()
    assert len(first.statistics.classes) == 2
    workspace.day(changed(rows, "a", {0: 5.0}))
    assert len(workspace.complete().statistics.classes) == 1
    done = cli("notify", "--date", DAY, "--job", "toy")
    assert done.stdout.startswith(f"toy {DAY}: 1 row scored\n")
    assert re.search(r"\nPredictions of the day: 0: [\d.]+%, 1: [\d.]+%\n", done.stdout)
    assert "not sent: [notify] apprise names no channel" in done.stderr


@pytest.mark.slow
def test_notify_level_not_chosen_by_the_job_is_not_sent(
    workspace: Workspace, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    told(workspace, "HOOK", on='["failure"]', more="confidence_below = 0.0\nshare_above = 1.0")
    workspace.day(5)
    workspace.run()
    with web_hook() as hook:
        monkeypatch.setenv("HOOK", hook.url)
        cli("notify", "--date", DAY, "--job", "toy")
    assert hook.received == []
