"""Comparisons of two versions, against a plain computation over both models' outputs."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.api.scorer import Scorer
from pipeline.compare import findings
from pipeline.compare.findings import compare
from pipeline.compare.rows import FEATURE
from pipeline.database.connection import connect
from pipeline.database.sql_files import load
from pipeline.errors import InputMissing, ModelMismatch, ModelNotFound
from pipeline.model.registry import Registry
from tests.compare.versions import ROWS, add_versions, both
from tests.workspace import DAY, Workspace, changed, table


@pytest.fixture
def versions(workspace: Workspace) -> Workspace:
    add_versions(workspace)
    return workspace


def scores(workspace: Workspace, version: str, rows: pa.Table) -> dict[str, Any]:
    scored = Scorer.load("toy", version, models=workspace.settings.models).score(rows)
    return {name: np.array(scored[name]) for name in ("prediction", "prob_class_1")}


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


def test_segments_without_a_segmenting_column_are_none() -> None:
    """All features are categories with many values, or lists, and the job carries no column."""
    rows = pa.table({
        "prediction_a": ["0"] * ROWS,
        "prediction_b": ["0", "1"] * (ROWS // 2),
        "score_a": [0.25] * ROWS,
        "score_b": [0.5] * ROWS,
        f"{FEATURE}city": [f"city {row}" for row in range(ROWS)],
        f"{FEATURE}history": [[row, row + 1] for row in range(ROWS)],
    })  # fmt: skip
    with connect() as con:
        con.from_arrow(rows).create_view("compared")
        found = findings.segmented(con, rows.column_names)
        found.create_view("segmented")
        assert found.columns == ["column_name", "segment", "flipped", "shift"]
        assert con.sql(load("compare/segments"), params={"least": 1}).fetchall() == []


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
    assert first.flip_share is not None
    assert first.flip_limit is not None
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
    calibration = both(versions).performance
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


def test_compare_of_other_classes_says_what_can_be_compared(versions: Workspace) -> None:
    registry, path = Registry(versions.root / "models"), versions.root / "linear-2.pt"
    for version, classes in (("3", ("no", "yes")), ("4", ("1", "no"))):
        registry.register(path, name="toy", version=version, features=("a", "b"), classes=classes)
    with pytest.raises(ModelMismatch, match=r"no class in common.* register 3 again, as a new .*--classes 0,1 in"):
        compare(versions.context(), "1", "3")
    with pytest.raises(ModelMismatch, match="lakescore compare 3 4 --class no"):
        compare(versions.context(), "3", "4")


def test_compare_writes_no_prediction(versions: Workspace) -> None:
    before = set(versions.files())
    both(versions)
    assert set(versions.files()) == before


@pytest.mark.parametrize(
    ("share", "rows", "expected"), [(0.0, 100, 0.0263), (0.5, 100, 0.5812), (0.02, 10_000, 0.0224)]
)
def test_upper_limit_is_that_of_wilson(share: float, rows: int, expected: float) -> None:
    assert findings.upper(share, rows) == pytest.approx(expected, abs=2e-4)
