"""Commands that are printed as next steps name the job and the lake of the command that prints them."""

from __future__ import annotations

import pytest

from pipeline.cli import next_steps
from tests.calling import Cli
from tests.workspace import DAY, Workspace


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The options that the command was given."""
    options: dict[str, str] = {}
    monkeypatch.setattr(next_steps, "_given", options)
    return options


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lakescore run, then retry", "lakescore run --job buy --lake L, then retry"),
        ("see `lakescore verify` there", "see `lakescore verify --lake L` there"),
        ("lakescore quarantine show --date D", "lakescore quarantine show --job buy --lake L --date D"),
        ("lakescore publish --job x --date D", "lakescore publish --lake L --job buy --date D"),
        (
            "lakescore import FILES --date D, or lakescore generate --date D",
            "lakescore import --job buy --lake L FILES --date D, or lakescore generate --lake L --date D",
        ),
        ("lakescore models show x", "lakescore models show x"),
        ("lakescore is slow", "lakescore is slow"),
        ("run again", "run again"),
    ],
)
def test_completed_adds_the_options_that_the_command_takes(given: dict[str, str], text: str, expected: str) -> None:
    assert next_steps.completed(text) == text
    given.update(job="buy", lake="L")
    assert next_steps.completed(text) == expected


def test_completed_quotes_a_folder_for_the_shell(given: dict[str, str]) -> None:
    given.update(job="./my jobs/buy")
    assert next_steps.completed("lakescore run --job buy --date D") == "lakescore run --job './my jobs/buy' --date D"


def test_error_names_job_and_lake_as_the_command_did_and_not_those_of_an_earlier_one(
    workspace: Workspace, cli: Cli
) -> None:
    workspace.day(5, ds="2026-01-05")
    said = cli("run", "--job", "dags/jobs/toy", "--lake", "./lake", "--date", DAY, expect=1).stderr
    assert f"next      lakescore import --lake ./lake FILES --job dags/jobs/toy --date {DAY}; the newest" in said
    said = cli("run", "--date", DAY, expect=1).stderr
    assert f"next      lakescore import FILES --job toy --date {DAY}; the newest with input is 2026-01-05" in said


def test_drift_and_quarantine_lead_to_commands_of_the_same_job_and_day(workspace: Workspace, cli: Cli) -> None:
    workspace.day(5)
    said = cli("drift", "--job", "toy", "--date", DAY, expect=1).stderr
    assert f"next      lakescore run --job toy --date {DAY}, then retry\n" in said
    said = cli("quarantine", "release", "u1", "--job", "toy", "--date", DAY, expect=2).stderr
    assert f"next      lakescore quarantine show --job toy --date {DAY}\n" in said


def test_promote_of_an_unknown_version_suggests_no_alias_of_that_name(workspace: Workspace, cli: Cli) -> None:
    for version in ("v99", "candidate"):
        said = cli("models", "promote", "toy", version, expect=1).stderr
        assert "--alias" not in said
        assert "next      name one of these, or register this version first" in said
