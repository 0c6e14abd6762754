"""`lakescore compare`, and the gate of `lakescore models promote`."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from pipeline.cli import compare
from pipeline.errors import QualityStop, UsageError
from pipeline.model.registry import Registry
from tests.calling import Cli
from tests.compare.versions import ROWS, add_versions, both
from tests.workspace import DAY, Workspace, changed, table

PROMOTE = ("models", "promote", "toy", "2", "--job", "toy")
COMPARE = ("compare", "1", "2", "--job", "toy")


@pytest.fixture
def versions(workspace: Workspace) -> Workspace:
    add_versions(workspace)
    return workspace


def production(workspace: Workspace) -> str:
    return Registry(workspace.root / "models").aliases("toy")["production"]


def test_gate_too_many_flips_promote_nothing(versions: Workspace, cli: Cli) -> None:
    stopped = cli(*PROMOTE, "--max-flips", "0.5%", expect=QualityStop)
    assert "decides differently from 1 for too many rows" in stopped.stderr
    assert production(versions) == "1"


def test_gate_few_enough_flips_promote(versions: Workspace, cli: Cli) -> None:
    share = both(versions).flip_share
    found = json.loads(cli(*PROMOTE, "--max-flips", f"{share:.6f}", "--json").stdout)
    assert found["flips"] == pytest.approx(share)
    assert production(versions) == "2"


@pytest.mark.slow
def test_rows_that_could_not_be_compared_are_said(versions: Workspace, cli: Cli) -> None:
    versions.day(changed(table(ROWS), "a", dict.fromkeys(range(7))))
    assert "; 7 rows with a NULL or infinite feature left out" in cli(*COMPARE).stdout
    assert "; 7 rows with a NULL or infinite feature left out" in cli(*PROMOTE, "--max-flips", "100%").stdout


def test_gate_judges_a_sample_by_its_upper_limit(versions: Workspace, cli: Cli) -> None:
    sampled = both(versions, sample=100)
    assert sampled.flip_share is not None
    assert sampled.flip_limit is not None
    between = (sampled.flip_share + sampled.flip_limit) / 2
    stopped = cli(*PROMOTE, "--max-flips", f"{between:.6f}", "--sample", "100", expect=QualityStop)
    assert "up to" in stopped.stderr


def test_gate_without_anything_to_compare_with_promotes(versions: Workspace, cli: Cli) -> None:
    cli(*PROMOTE, "--max-flips", "0%", "--alias", "fresh")
    assert Registry(versions.root / "models").aliases("toy")["fresh"] == "2"


@pytest.mark.parametrize("text", ["2 percent", "-1%", "101%", "2", "", "nan"])
def test_gate_share_that_is_none_is_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError, match="must be a share"):
        compare.share(text)


@pytest.mark.parametrize(
    ("text", "value"), [("2%", 0.02), ("0.02", 0.02), ("0", 0.0), ("100%", 1.0), (" 0.5% ", 0.005)]
)
def test_gate_share_as_people_write_it(text: str, value: float) -> None:
    assert compare.share(text) == pytest.approx(value)


def test_gate_of_a_job_with_another_model_is_wrong_usage(versions: Workspace, cli: Cli) -> None:
    versions.job(model="other")
    assert "has another model" in cli(*PROMOTE, "--max-flips", "2%", expect=UsageError).stderr


@pytest.mark.slow
def test_cli_shows_tables_and_writes_a_page_that_escapes(versions: Workspace, cli: Cli) -> None:
    hostile = "<img src=x onerror=alert(1)>"
    country = pa.array([hostile if row % 2 else "UK" for row in range(ROWS)])
    versions.day(table(ROWS).append_column("country", country))
    shown = cli(*COMPARE).stdout
    assert f"{ROWS} rows of {DAY}" in shown
    text = (versions.lake / "reports/job=toy/compare/1-2.html").read_text()
    assert "&lt;img src=x" in text
    assert "<img" not in text
    assert json.loads(cli(*COMPARE, "--json").stdout)["flip_share"] > 0
