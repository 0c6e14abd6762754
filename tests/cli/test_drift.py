"""`lakescore drift` and `lakescore labels`, called as commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import InputMissing
from pipeline.model.registry import Registry
from pipeline.tabular import sources
from tests.calling import Cli
from tests.workspace import DAY, Workspace, table


def test_drift_compares_a_day_and_prints_the_result(workspace: Workspace, cli: Cli) -> None:
    workspace.day(500)
    workspace.complete()
    shown = cli("drift", "--date", DAY, "--job", "toy").stdout
    assert "prob_class_1" in shown
    assert "1 of 1 day without alarms" in shown
    cli("drift", "--date", DAY, "--job", "toy", "--fail-on", "warning")
    found = json.loads(cli("drift", "--from", DAY, "--to", DAY, "--job", "toy", "--json").stdout)
    assert {(each["ds"], each["column_name"], each["outcome"]) for each in found} == {
        (DAY, column, "none") for column in ("a", "b", "prob_class_1", "prediction")
    }
    rows = json.loads(cli("query", "drift_trend", "--json").stdout)
    assert len(rows) == 4
    rows = json.loads(cli("query", "profile_trend", "--param", "column_name=a", "--json").stdout)
    assert [row["rows"] for row in rows] == [500]


def test_drift_of_a_day_without_run_says_what_to_do(workspace: Workspace, cli: Cli) -> None:
    workspace.lake.mkdir()
    done = cli("drift", "--date", DAY, "--job", "toy", expect=1)
    assert "no run of toy is complete on 2026-01-01" in done.stderr
    cli("drift", "--date", DAY, "--from", DAY, "--job", "toy", expect=2)


def test_labels_import_measures_the_days(workspace: Workspace, cli: Cli) -> None:
    workspace.day(500)
    workspace.complete()
    rows = pa.table({"id": [f"u{i}" for i in range(100)], "day": [DAY] * 100, "truth": [0, 1] * 50})
    pq.write_table(rows, workspace.root / "labels.parquet")
    options = ("--label", "truth", "--partition-by", "day", "--job", "toy")
    assert "imported 100 labels of 1 day" in cli("labels", "import", "labels.parquet", *options).stdout
    (found,) = json.loads(cli("query", "performance_trend", "--json").stdout)
    assert (found["rows"], found["labelled"], found["base_rate"]) == (100, 0.2, 0.5)
    assert "already has files" in cli("labels", "import", "labels.parquet", *options, expect=2).stderr


@pytest.mark.slow
def test_drift_is_said_by_the_run_that_finds_it(workspace: Workspace, cli: Cli) -> None:
    """It stops nothing, but who reads the end of a run must know."""
    rng = np.random.default_rng(5)
    training = workspace.root / "training.parquet"
    pq.write_table(pa.table({"a": rng.normal(size=20_000), "b": rng.normal(size=20_000)}), training)
    checkpoint = workspace.model("unused")
    registry = Registry(Path(workspace.settings.models))
    registry.register(checkpoint, name="toy", version="v2", features=("a", "b"), training=sources.find([training]))
    registry.promote("toy", "v2")
    rows = table(1_000)
    workspace.day(rows.set_column(2, "b", pa.array(np.asarray(rows.column("b")) + 1.0)))
    said = cli("run", "--job", "toy", "--date", DAY).stdout
    assert "\ndrift critical: b" in said
    assert f"\ndetails: lakescore drift --job toy --date {DAY}\n" in said
    shown = cli("drift", "--job", "toy", "--date", DAY, "--fail-on", "critical", expect=3)
    assert "against training" in shown.stdout
    assert f"error: critical drift\n  got       {DAY}" in shown.stderr
    found = json.loads(cli("drift", "--job", "toy", "--date", DAY, "--fail-on", "warning", "--json", expect=3).stdout)
    assert any(each["outcome"] == "critical" for each in found)
    workspace.day(rows.set_column(2, "b", pa.array(np.asarray(rows.column("b")) + 1.0)), "2026-01-02")
    (line,) = (
        text
        for text in cli("backfill", "--job", "toy", "--from", "2026-01-02", "--to", "2026-01-02").stdout.splitlines()
        if text.startswith("2026-01-02")
    )
    assert "1,000 scored, drift critical: b" in line


def test_drift_without_a_date_names_the_newest_day_that_there_is(workspace: Workspace, cli: Cli) -> None:
    workspace.lake.mkdir()
    assert "lakescore import FILES --job toy" in cli("drift", "--job", "toy", expect=InputMissing).stderr
    workspace.day(50)
    assert f"lakescore run --job toy --date {DAY}, then retry" in cli("drift", "--job", "toy", expect=1).stderr
    workspace.complete()
    said = cli("drift", "--job", "toy", expect=1).stderr
    assert f"next      the newest is {DAY}: lakescore drift --job toy --date {DAY}" in said
    workspace.day(50, "2026-01-02")
    said = cli("drift", "--job", "toy", "--date", "2026-01-02", expect=1).stderr
    assert f"lakescore run --job toy --date 2026-01-02, then retry; the newest is {DAY}: " in said
