"""Labels that arrive later: what is stored of them, and what they say of the predictions."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.care.erase import erase
from pipeline.drift.labels import import_labels
from pipeline.drift.performance import measure
from pipeline.errors import SchemaMismatch, UsageError
from pipeline.ingest.publishing import Existing
from pipeline.lake.layout import Lake
from pipeline.query.catalog import write_catalog
from pipeline.tabular import sources
from tests.calling import Cli
from tests.profiles.test_profiles import lake_views
from tests.workspace import DAY, Workspace, changed, table


def bring(workspace: Workspace, rows: dict[str, Any], existing: Existing = Existing.refuse, **options: Any) -> int:
    """Imports labels of DAY; returns the number of rows that were kept."""
    path = workspace.root / "labels.parquet"
    pq.write_table(pa.table(rows), path)
    how: dict[str, Any] = {"ds": DAY, "partition_by": None, **options}
    days = import_labels(workspace.context(), sources.find([path]), ["truth"], existing=existing, **how)
    return sum(day.rows for day in days)


def view(workspace: Workspace, query: str) -> list[dict[str, Any]]:
    with lake_views(workspace) as con:
        rows: list[dict[str, Any]] = con.sql(query).to_arrow_table().to_pylist()
    return rows


def truths(rows: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {"id": [f"u{i}" for i in range(rows)], "truth": rng.integers(0, 2, rows)}


def pairs_in_order(scores: np.ndarray, labels: np.ndarray) -> float:
    apart = scores[labels == 1][:, None] - scores[labels == 0][None, :]
    return float(((apart > 0) + (apart == 0) / 2).mean())


@pytest.mark.parametrize("equal", [False, True], ids=["scores", "ties"])
def test_performance_is_what_plain_numpy_says(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, *, equal: bool
) -> None:
    rows = table(400)
    if equal:  # few distinct rows, so that scores tie; computed as with many classes
        monkeypatch.setattr("pipeline.database.wide.FEW", 0)
        rows = pa.concat_tables([table(20).select(["a", "b"])] * 20).add_column(0, "id", rows.column("id"))
    workspace.day(rows)
    workspace.complete()
    labels = truths(400)
    assert bring(workspace, labels) == 400
    stored = {row["id"]: row for row in workspace.stored()}
    scores = np.array([stored[key]["prob_class_1"] for key in labels["id"]], np.float64)
    truth = labels["truth"]
    (found,) = view(workspace, "FROM performance")
    assert (found["rows"], found["predictions"], found["positives"], found["class"]) == (400, 400, truth.sum(), "1")
    assert found["auc"] == pytest.approx(pairs_in_order(scores, truth), abs=1e-12)
    other = np.array([stored[key]["prob_class_0"] for key in labels["id"]], np.float64)
    assert found["log_loss"] == pytest.approx(-np.log(np.where(truth == 1, scores, other)).mean(), rel=1e-9)
    assert found["brier"] == pytest.approx(((scores - truth) ** 2).mean(), rel=1e-9)
    assert (found["mean_score"], found["base_rate"]) == pytest.approx((scores.mean(), truth.mean()), rel=1e-9)
    places = np.minimum(np.floor(scores * 10), 9)
    apart = [
        abs(scores[places == n].mean() - truth[places == n].mean()) * (places == n).sum() for n in np.unique(places)
    ]
    assert found["calibration_error"] == pytest.approx(sum(apart) / 400, rel=1e-9)
    assert sum(each["rows"] for each in found["calibration"]) == 400
    assert all(each["low"] <= each["mean_score"] <= each["high"] for each in found["calibration"])


def test_rows_without_label_are_left_out_and_counted(workspace: Workspace) -> None:
    workspace.day(100)
    workspace.complete()
    labels = truths(60)
    labels["truth"] = [None if row % 3 == 0 else int(value) for row, value in enumerate(labels["truth"])]
    assert bring(workspace, labels) == 40
    (found,) = view(workspace, "FROM performance")
    assert (found["rows"], found["predictions"]) == (40, 100)


def test_labels_before_the_predictions_are_measured_by_the_run(workspace: Workspace) -> None:
    workspace.day(100)
    bring(workspace, truths(100))
    assert view(workspace, "FROM performance") == []
    workspace.complete()
    assert [row["rows"] for row in view(workspace, "FROM performance")] == [100]


@pytest.mark.slow
def test_revised_predictions_are_measured_again(workspace: Workspace) -> None:
    workspace.day(100)
    workspace.complete()
    bring(workspace, truths(100))
    (before,) = view(workspace, "FROM performance")
    workspace.day(changed(table(100), "a", {row: 3.0 for row in range(50)}))  # noqa: C420 - a value for each
    second = workspace.complete()
    (after,) = view(workspace, "FROM performance")
    assert (after["run_id"], after["rows"], after["predictions"]) == (second.run_id, 100, 100)
    assert after["mean_score"] != before["mean_score"]


@pytest.mark.slow
def test_newer_label_of_a_key_counts(workspace: Workspace) -> None:
    workspace.day(50)
    workspace.complete()
    bring(workspace, {"id": ["u1", "u2"], "truth": [0, 0]})
    with pytest.raises(UsageError, match="already has files"):
        bring(workspace, {"id": ["u1"], "truth": [1]})
    bring(workspace, {"id": ["u1"], "truth": [1]}, Existing.append)
    assert view(workspace, "SELECT key_text, label FROM labels ORDER BY ALL") == [
        {"key_text": "u1", "label": "1"},
        {"key_text": "u2", "label": "0"},
    ]
    (found,) = view(workspace, "FROM performance")
    assert (found["rows"], found["positives"]) == (2, 1)
    bring(workspace, {"id": ["u3"], "truth": [1]}, Existing.replace)
    (found,) = view(workspace, "FROM performance")
    assert (found["rows"], found["auc"]) == (1, None)


@pytest.mark.parametrize("values", [[True, False], [1.0, 0.0], ["1", "0"]], ids=["boolean", "double", "text"])
def test_labels_of_other_types_are_the_classes(workspace: Workspace, values: list[Any]) -> None:
    workspace.day(50)
    workspace.complete()
    bring(workspace, {"id": ["u1", "u2"], "truth": values})
    assert [row["label"] for row in view(workspace, "SELECT label FROM labels ORDER BY key_text")] == ["1", "0"]


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ({"id": ["u1"], "truth": [2]}, "not a class of the job's model"),
        ({"id": ["u1"], "truth": ["1.0"]}, "not a class of the job's model"),
        ({"id": ["u1"], "label": [1]}, "lack a column 'truth'"),
        ({"key": ["u1"], "truth": [1]}, "lack a column 'id'"),
        ({"id": ["u1", None], "truth": [1, 0]}, "1 labels have no key"),
        ({"id": ["u1", "u2", "u1"], "truth": [1, 0, 0]}, "(?s)1 key with different labels in one day.*id u1: 0 and 1"),
    ],
    ids=[
        "unknown class",
        "text that only looks like a class",
        "no label",
        "no key",
        "a row without key",
        "contradiction",
    ],
)
def test_labels_that_cannot_be_meant_are_refused(workspace: Workspace, rows: dict[str, Any], what: str) -> None:
    with pytest.raises(SchemaMismatch, match=what):
        bring(workspace, rows)
    assert not (workspace.lake / "labels").exists() or not list((workspace.lake / "labels").rglob("*.parquet"))


@pytest.mark.parametrize("exists", ["predictions of the day", "predictions of another day", "input"])
@pytest.mark.parametrize("by_column", [False, True])
def test_labels_with_a_key_of_another_type_are_refused_and_not_stored(
    workspace: Workspace, exists: str, *, by_column: bool
) -> None:
    ds = "2025-12-31" if "another" in exists else DAY
    workspace.day(20, ds=ds)
    if exists != "input":
        workspace.complete(ds)
    how: dict[str, Any] = {"ds": None, "partition_by": "day"} if by_column else {}
    labels = {"id": [1, 2], "truth": [0, 1], "day": [DAY, DAY]}
    with pytest.raises(SchemaMismatch, match="another key than the job") as caught:
        bring(workspace, labels, **how)
    assert (caught.value.expected, caught.value.got) == ("id VARCHAR", "id BIGINT")
    assert not list(workspace.lake.glob("labels/**/*.parquet"))
    assert bring(workspace, {**labels, "id": ["u1", "u2"]}, **how) == 2


def test_labels_with_another_key_than_earlier_labels_are_refused(workspace: Workspace) -> None:
    bring(workspace, truths(5))
    with pytest.raises(SchemaMismatch, match="another key than the job"):
        bring(workspace, {"id": [1], "truth": [1]}, Existing.append)
    assert len(list(workspace.lake.glob("labels/**/*.parquet"))) == 1


def test_labels_of_three_classes_are_measured_one_against_the_rest(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.job()
    workspace.model(classes=3)
    workspace.day(300)
    workspace.complete()
    truth = np.random.default_rng(1).integers(0, 3, 300)
    bring(workspace, {"id": [f"u{i}" for i in range(300)], "truth": truth})
    found = view(workspace, "FROM performance ORDER BY class")
    assert [(row["class"], row["positives"]) for row in found] == [(str(n), (truth == n).sum()) for n in range(3)]
    assert found[0]["log_loss"] == pytest.approx(found[2]["log_loss"])
    stored = {row["id"]: row for row in workspace.stored()}
    scores = np.array([stored[f"u{i}"]["prob_class_2"] for i in range(300)])
    assert found[2]["auc"] == pytest.approx(pairs_in_order(scores, (truth == 2).astype(int)), abs=1e-12)


@pytest.mark.parametrize(("second", "refused"), [("2026-01-01 23:00", True), ("2026-01-02 01:00", False)])
def test_labels_of_one_period_are_one_per_key(workspace: Workspace, second: str, *, refused: bool) -> None:
    times = [datetime.fromisoformat(text) for text in ("2026-01-01 04:00", second)]
    labels = {"id": ["u1", "u1"], "truth": [1, 0], "at": times}
    how: dict[str, Any] = {"ds": None, "partition_by": "at"}
    if refused:
        with pytest.raises(SchemaMismatch, match="different labels in one day"):
            bring(workspace, labels, **how)
    assert refused or bring(workspace, labels, **how) == 2
    assert bring(workspace, {**labels, "truth": [1, 1]}, Existing.replace, **how) == 2  # the same twice


def test_erased_key_has_no_label_any_more(workspace: Workspace) -> None:
    workspace.day(20)
    workspace.complete()
    bring(workspace, truths(20))
    ctx = workspace.context()
    erase(Lake.open(str(workspace.lake)), ctx.job, "u7")
    assert {row["key_text"] for row in view(workspace, "FROM labels")} == {f"u{i}" for i in range(20)} - {"u7"}
    record = ctx.lake.records.last_complete("toy", DAY)
    assert record is not None
    assert measure(ctx, record) == 19


@pytest.mark.slow
def test_catalog_shows_what_is_computed_of_days_also_later_ones(workspace: Workspace) -> None:
    workspace.day(100)
    workspace.complete()
    bring(workspace, truths(100))
    lake = Lake.open(str(workspace.lake))
    path = write_catalog(lake)
    workspace.day(100, ds="2026-01-02")
    workspace.complete("2026-01-02")
    with duckdb.connect(str(path), read_only=True) as con:
        con.execute("SET TimeZone = 'UTC'")
        for name, rows in {"profiles": 10, "drift": 8, "performance": 1, "labels": 100}.items():
            theirs = con.sql(f"SELECT * FROM {name}").to_arrow_table()
            assert theirs.num_rows == rows, name
            mine = view(workspace, f"SELECT * FROM {name}")
            assert sorted(map(str, theirs.select(list(mine[0])).to_pylist())) == sorted(map(str, mine))


def test_labels_of_text_keep_their_keys(workspace: Workspace, cli: Cli) -> None:
    rows = pa.table({"id": ["007", "7", "+7"], "a": [1.0, 2.0, 3.0], "b": [1.0, 2.0, 3.0]})
    workspace.day(rows)
    workspace.complete()
    (workspace.root / "labels.csv").write_text("id;truth\n007;1,0\n+7;0,0\n")
    options = ("--label", "truth", "--date", "2026-01-01", "--job", workspace.settings.jobs / "toy")
    cli("labels", "import", "labels.csv", *options, "--decimal", ",", "--types", "truth=BIGINT")
    assert [row["rows"] for row in view(workspace, "FROM performance")] == [2]
    (workspace.root / "labels.csv").write_text("id,truth\n7,1\n")
    cli("labels", "import", "labels.csv", *options, "--types", "id=VARCHAR", "--replace")
    assert [row["rows"] for row in view(workspace, "FROM performance")] == [1]
