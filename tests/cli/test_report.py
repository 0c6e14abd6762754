"""`lakescore report`: which pages it writes, prints and opens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.flow import day as flow
from pipeline.report import facts
from tests.calling import Cli
from tests.workspace import DAY, Workspace

DAYS = (DAY, "2026-01-02")
REPORT = ("report", "--job", "toy")


@pytest.mark.slow
def test_job_without_report_makes_pages_only_by_command(workspace: Workspace, cli: Cli) -> None:
    with (workspace.job() / "job.toml").open("a") as file:
        file.write("[report]\nenabled = false\n")
    workspace.day(20)
    flow.run(workspace.context(), DAY)
    assert not (workspace.lake / "reports").exists()
    cli(*REPORT)
    assert len(list((workspace.lake / "reports").rglob("*.html"))) == 2


@pytest.mark.slow
def test_cli_writes_missing_pages_and_rewrites_those_of_a_day(workspace: Workspace, cli: Cli) -> None:
    for ds in DAYS[:2]:
        workspace.day(5, ds)
        workspace.run(ds)
    ctx = workspace.context()
    (first,), (second,) = (ctx.lake.records.of_day("toy", ds) for ds in DAYS[:2])
    (workspace.lake / facts.page_of(first)).unlink()
    found = json.loads(cli(*REPORT, "--json").stdout)
    assert found["runs"] == [str(workspace.lake / facts.page_of(first))]
    assert Path(found["index"]).is_file()
    assert cli(*REPORT, "--date", DAYS[1]).stdout.strip() == str(workspace.lake / facts.page_of(second))
    refused = cli(*REPORT, "--date", "2026-01-05", expect=UsageError)
    assert "has no run for 2026-01-05" in refused.stderr


@pytest.mark.slow
def test_cli_open_shows_the_page(workspace: Workspace, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    workspace.day(5)
    workspace.run()
    cli(*REPORT, "--open")
    assert opened == [(workspace.lake / facts.INDEX).as_uri()]
