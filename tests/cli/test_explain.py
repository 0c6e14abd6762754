"""`lakescore explain`: what it prints."""

from __future__ import annotations

import json
import re

import pytest

from pipeline.errors import UsageError
from tests.calling import Cli
from tests.explain.history import add_history
from tests.workspace import DAY, Workspace

EXPLAIN = ("explain", "u3", "--replay", "--job", "toy")


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("scored"))
    workspace.job()
    workspace.model()
    add_history(workspace)
    return workspace


@pytest.fixture
def history(scored: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("LAKESCORE_LAKE", scored.settings.lake)
    monkeypatch.setenv("LAKESCORE_JOBS", str(scored.settings.jobs))
    monkeypatch.setenv("LAKESCORE_MODELS", scored.settings.models)
    return scored


@pytest.mark.slow
def test_cli_shows_predictions_input_and_attribution(cli: Cli, history: Workspace) -> None:
    shown = cli(*EXPLAIN).stdout
    assert "4 predictions" in shown
    assert re.search(r"row group 0, row 3", shown)
    assert "exact Shapley values; baseline: " in shown


def test_cli_json_has_everything(cli: Cli, history: Workspace) -> None:
    found = json.loads(cli(*EXPLAIN, "--json").stdout)
    first = found["predictions"][0]
    assert first["replay"]["same_model"]
    assert first["input"]["row_group"] == 0
    assert set(first["attribution"]["shares"]) == {"a", "b"}


def test_explain_of_another_day_lists_the_days_that_the_key_has(cli: Cli, workspace: Workspace) -> None:
    workspace.day(3)
    workspace.complete()
    workspace.day(2, "2026-01-02")
    workspace.complete("2026-01-02")
    said = cli("explain", "u2", "--job", "toy", "--date", "2026-01-02", expect=UsageError).stderr
    assert f"it is stored for {DAY}\n" in said
    assert f"lakescore explain --job toy u2 --date {DAY}" in said or f"u2 --job toy --date {DAY}" in said
    assert "u2: 1 prediction\n" in cli("explain", "u2", "--job", "toy").stdout
