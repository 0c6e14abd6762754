"""lakescore drift and lakescore labels, as they are called."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq

from tests.conftest import Lakescore
from tests.workspace import DAY, Workspace


def test_drift_compares_a_day_and_says_so(workspace: Workspace, lakescore: Lakescore) -> None:
    workspace.day(500)
    workspace.complete()
    shown = lakescore("drift", "--date", DAY, "--job", "toy").stdout
    assert "prob_class_1" in shown
    assert "1 of 1 days without alarm" in shown
    found = json.loads(lakescore("drift", "--from", DAY, "--to", DAY, "--job", "toy", "--json").stdout)
    assert {(each["ds"], each["column_name"], each["outcome"]) for each in found} == {
        (DAY, column, "none") for column in ("a", "b", "prob_class_1", "prediction")
    }
    rows = json.loads(lakescore("query", "drift_trend", "--json").stdout)
    assert len(rows) == 4
    rows = json.loads(lakescore("query", "profile_trend", "--param", "column_name=a", "--json").stdout)
    assert [row["rows"] for row in rows] == [500]


def test_drift_of_a_day_without_run_says_what_to_do(workspace: Workspace, lakescore: Lakescore) -> None:
    done = lakescore("drift", "--date", DAY, "--job", "toy", expect=1)
    assert "no run of toy is complete on 2026-01-01" in done.stderr
    lakescore("drift", "--date", DAY, "--from", DAY, "--job", "toy", expect=2)


def test_labels_import_measures_the_days(workspace: Workspace, lakescore: Lakescore) -> None:
    workspace.day(500)
    workspace.complete()
    rows = pa.table({"id": [f"u{i}" for i in range(100)], "day": [DAY] * 100, "truth": [0, 1] * 50})
    pq.write_table(rows, workspace.root / "labels.parquet")
    options = ("--label", "truth", "--partition-by", "day", "--job", "toy")
    assert "100 labels of 1 days" in lakescore("labels", "import", "labels.parquet", *options).stdout
    (found,) = json.loads(lakescore("query", "performance_trend", "--json").stdout)
    assert (found["rows"], found["labelled"], found["base_rate"]) == (100, 0.2, 0.5)
    assert "has files already" in lakescore("labels", "import", "labels.parquet", *options, expect=2).stderr


def test_register_with_training_data_keeps_their_profile(workspace: Workspace, lakescore: Lakescore) -> None:
    pq.write_table(
        pa.table({"a": [0.1, 0.2, 0.3] * 50, "b": [1.0, 2.0, 3.0] * 50}), workspace.root / "training.parquet"
    )
    command = ("models", "register", "toy-v1.pt", "--name", "toy", "--features", "a,b")
    lakescore(*command, "--version", "v2", "--baseline", "training.parquet")
    kept = pq.read_table(workspace.root / "models" / "toy" / "v2" / "baseline.parquet").to_pylist()
    assert {row["column_name"]: row["rows"] for row in kept} == dict.fromkeys(
        ("a", "b", "prob_class_1", "prediction_proba", "prediction"), 150
    )
    refused = lakescore(*command, "--version", "v1", "--baseline", "training.parquet", expect=1).stderr
    assert "was registered without training data, for ever" in refused
