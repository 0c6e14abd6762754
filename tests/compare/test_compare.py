"""`compare` and the gate of `models promote`: against a plain computation over both models' outputs."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import typer
from typer.testing import CliRunner

from pipeline.cli import compare as commands
from pipeline.cli import models as models_commands
from pipeline.compare import findings
from pipeline.compare.findings import Comparison, compare
from pipeline.errors import InputMissing, ModelMismatch, ModelNotFound, QualityStop, UsageError
from pipeline.model.registry import Registry
from pipeline.scorer import Scorer
from tests.workspace import DAY, Workspace, changed, table

ROWS = 400


@pytest.fixture
def versions(workspace: Workspace) -> Workspace:
    """Two versions of a model that decide otherwise for some rows, and a carried column whose third value matters."""
    workspace.job(reads='carry = ["country"]')
    network(workspace, "1", (1.0, 0.0), 0.0)
    network(workspace, "2", (1.0, 0.25), 0.1)
    country = pa.array(["UK" if row % 3 else "FR" for row in range(ROWS)])
    workspace.day(table(ROWS).append_column("country", country))
    return workspace


def network(workspace: Workspace, version: str, weights: tuple[float, float], bias: float) -> None:
    """Registers a model whose logit is linear; `production` stays with the first of them."""
    path = workspace.root / f"linear-{version}.pt"
    state = {"fc.weight": torch.tensor([weights]) * 3, "fc.bias": torch.tensor([bias])}
    torch.save({"model_state_dict": state}, path)
    registry = Registry(workspace.root / "models")
    alias = "production" if version == "1" else None
    registry.register(path, name="toy", version=version, features=("a", "b"), alias=alias)


def scores(workspace: Workspace, version: str, rows: pa.Table) -> dict[str, Any]:
    scored = Scorer.load("toy", version, models=workspace.settings.models).score(rows)
    return {name: np.array(scored[name]) for name in ("prediction", "prob_class_1")}


def both(workspace: Workspace, **options: Any) -> Comparison:
    return compare(workspace.context(), "1", "2", **options)


def test_compare_equals_a_plain_computation(versions: Workspace) -> None:
    rows = pq.read_table(versions.lake / f"unscored/ds={DAY}/data.parquet", partitioning=None)
    a, b = scores(versions, "1", rows), scores(versions, "2", rows)
    found = both(versions)
    flips = a["prediction"] != b["prediction"]
    assert 0 < flips.sum() < ROWS
    assert (found.rows, found.summary["flips"], found.skipped) == (ROWS, flips.sum(), 0)
    shift = b["prob_class_1"].astype(float) - a["prob_class_1"]
    assert found.summary["mean_shift"] == pytest.approx(shift.mean(), abs=1e-6)
    assert found.summary["mean_absolute_shift"] == pytest.approx(np.abs(shift).mean(), abs=1e-6)
    assert found.summary["shift_95"] == pytest.approx(np.quantile(shift, 0.95), abs=1e-6)
    directions = {(row["before"], row["after"]): row["rows"] for row in found.flips}
    for pair, count in directions.items():
        assert count == ((a["prediction"] == int(pair[0])) & (b["prediction"] == int(pair[1]))).sum()
    assert sum(directions.values()) == ROWS
    for row in found.overlap:
        top = [set(np.argsort(-each["prob_class_1"], kind="stable")[: row["k"]]) for each in (a, b)]
        assert row["in_both"] == len(top[0] & top[1])
    assert [row["k"] for row in found.overlap] == [4, 10, 40, 100]
    expected = np.histogram(a["prob_class_1"], bins=np.linspace(0, 1, 21))[0]
    assert [row["rows_a"] for row in found.histogram] == expected.tolist()


def test_compare_of_a_version_with_itself_finds_nothing(versions: Workspace) -> None:
    found = compare(versions.context(), "1", "production")
    assert (found.flip_share, found.summary["largest_shift"]) == (0, 0)
    assert all(row["overlap"] == 1 for row in found.overlap)


def test_compare_names_the_segments_that_flip_most(versions: Workspace) -> None:
    rows = table(ROWS)
    third = np.arange(ROWS) % 3 == 0
    moved = rows.set_column(2, "b", pa.array(np.where(third, 40.0, 0.0)))
    moved = moved.append_column("country", pa.array(np.where(third, "FR", "UK")))
    versions.day(moved)
    found = both(versions)
    segments = {(row["column_name"], row["segment"]): row for row in found.segments}
    assert found.segments[0]["column_name"] in ("country", "b")
    assert segments["country", "FR"]["rows"] == third.sum()
    assert segments["country", "FR"]["share"] > 0.3
    assert segments["country", "FR"]["low"] < segments["country", "FR"]["share"]
    assert segments["country", "UK"]["share"] < 0.1


def test_compare_rows_that_cannot_be_scored_are_counted_apart(versions: Workspace) -> None:
    rows = changed(changed(table(ROWS), "a", {0: None}), "b", {1: float("inf")})
    versions.day(rows.append_column("country", pa.array(["UK"] * ROWS)))
    found = both(versions)
    assert (found.rows, found.skipped) == (ROWS - 2, 2)


def test_compare_sample_is_the_same_every_time_and_from_all_days(versions: Workspace) -> None:
    country = pa.array(["UK"] * ROWS)
    versions.day(table(ROWS).append_column("country", country), "2026-01-02")
    first, second = both(versions, sample=100), both(versions, sample=100)
    assert first.summary == pytest.approx(second.summary)  # threads add up in any order
    assert dataclasses.replace(first, summary={}) == dataclasses.replace(second, summary={})
    assert first.rows == 100
    assert first.days == (DAY, "2026-01-02")
    assert first.flip_limit > first.flip_share
    assert both(versions, sample=50, ds=DAY).days == (DAY,)
    assert both(versions).days == ("2026-01-02",)


def test_compare_with_labels_tells_the_calibration(versions: Workspace) -> None:
    rows = pq.read_table(versions.lake / f"unscored/ds={DAY}/data.parquet", partitioning=None)
    truth = (np.array(rows["a"]) > 0).astype(int)
    path = versions.lake / f"labels/job=toy/ds={DAY}/labels.parquet"
    path.parent.mkdir(parents=True)
    labelled = 300
    pq.write_table(pa.table({"id": rows["id"], "label": pa.array(map(str, truth))}).slice(0, labelled), path)
    calibration = both(versions).calibration
    for version, row in zip("12", calibration, strict=True):
        score = scores(versions, version, rows)["prob_class_1"][:labelled].astype(float)
        expected = truth[:labelled]
        assert row["rows"] == labelled
        assert row["base_rate"] == pytest.approx(expected.mean())
        assert row["brier"] == pytest.approx(((score - expected) ** 2).mean(), abs=1e-6)
        assert row["accuracy"] == pytest.approx(((score > 0.5) == expected).mean())
        likely = np.where(expected == 1, score, 1 - score)
        assert row["log_loss"] == pytest.approx(-np.log(likely).mean(), rel=1e-4)
    assert calibration[0]["accuracy"] == 1.0
    assert calibration[1]["accuracy"] < 1.0


def test_compare_what_cannot_be_compared_is_an_error(versions: Workspace) -> None:
    with pytest.raises(ModelNotFound):
        compare(versions.context(), "1", "9")
    with pytest.raises(InputMissing):
        both(versions, ds="2026-03-01")
    with pytest.raises(ModelMismatch, match="do not both have the class 'churn'"):
        both(versions, target="churn")


def test_compare_writes_no_prediction(versions: Workspace) -> None:
    before = set(versions.files())
    both(versions)
    assert set(versions.files()) == before


@pytest.mark.parametrize(
    ("share", "rows", "expected"), [(0.0, 100, 0.0263), (0.5, 100, 0.5812), (0.02, 10_000, 0.0224)]
)
def test_upper_limit_is_that_of_wilson(share: float, rows: int, expected: float) -> None:
    assert findings.upper(share, rows) == pytest.approx(expected, abs=2e-4)


# The gate


@pytest.fixture
def cli(versions: Workspace, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("LAKESCORE_LAKE", versions.settings.lake)
    monkeypatch.setenv("LAKESCORE_JOBS", str(versions.settings.jobs))
    monkeypatch.setenv("LAKESCORE_MODELS", versions.settings.models)
    app = typer.Typer()
    commands.add_to(app)
    models_commands.add_to(app)

    def call(*arguments: str) -> str:
        done = CliRunner().invoke(app, [*arguments, "--job", "toy"], catch_exceptions=False)
        assert done.exit_code == 0
        return done.stdout

    return call


def production(workspace: Workspace) -> str:
    return Registry(workspace.root / "models").aliases("toy")["production"]


def test_gate_too_many_flips_promote_nothing(versions: Workspace, cli: Any) -> None:
    with pytest.raises(QualityStop, match="decides otherwise than 1 for too many rows") as stopped:
        cli("models", "promote", "toy", "2", "--max-flips", "0.5%")
    assert stopped.value.exit_code == 3
    assert production(versions) == "1"


def test_gate_few_enough_flips_promote(versions: Workspace, cli: Any) -> None:
    share = both(versions).flip_share
    found = json.loads(cli("models", "promote", "toy", "2", "--max-flips", f"{share:.6f}", "--json"))
    assert found["flips"] == pytest.approx(share)
    assert production(versions) == "2"


def test_gate_judges_a_sample_by_its_upper_limit(versions: Workspace, cli: Any) -> None:
    sampled = both(versions, sample=100)
    between = (sampled.flip_share + sampled.flip_limit) / 2
    with pytest.raises(QualityStop, match="up to"):
        cli("models", "promote", "toy", "2", "--max-flips", f"{between:.6f}", "--sample", "100")


def test_gate_without_anything_to_compare_with_promotes(versions: Workspace, cli: Any) -> None:
    cli("models", "promote", "toy", "2", "--max-flips", "0%", "--alias", "fresh")
    assert Registry(versions.root / "models").aliases("toy")["fresh"] == "2"


@pytest.mark.parametrize("text", ["2 percent", "-1%", "101%", "2", "", "nan"])
def test_gate_share_that_is_none_is_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError, match="not a share"):
        commands.share(text)


@pytest.mark.parametrize(
    ("text", "value"), [("2%", 0.02), ("0.02", 0.02), ("0", 0.0), ("100%", 1.0), (" 0.5% ", 0.005)]
)
def test_gate_share_as_people_write_it(text: str, value: float) -> None:
    assert commands.share(text) == pytest.approx(value)


def test_gate_of_a_job_with_another_model_is_wrong_usage(versions: Workspace, cli: Any) -> None:
    versions.job(model="other")
    with pytest.raises(UsageError, match="has another model"):
        cli("models", "promote", "toy", "2", "--max-flips", "2%")


def test_cli_shows_tables_and_writes_a_page_that_escapes(versions: Workspace, cli: Any) -> None:
    hostile = "<img src=x onerror=alert(1)>"
    country = pa.array([hostile if row % 2 else "UK" for row in range(ROWS)])
    versions.day(table(ROWS).append_column("country", country))
    shown = cli("compare", "1", "2")
    assert f"{ROWS} rows of {DAY}" in shown
    text = (versions.lake / "reports/job=toy/compare/1-2.html").read_text()
    assert "&lt;img src=x" in text
    assert "<img" not in text
    assert json.loads(cli("compare", "1", "2", "--json"))["flip_share"] > 0
