"""Comparisons of versions of each task, against numpy and scikit-learn over both models' outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn import metrics

from pipeline.api.scorer import Scorer
from pipeline.compare import tables
from pipeline.compare.findings import Comparison, compare, gate
from pipeline.drift.true_labels import STORED
from pipeline.errors import ModelMismatch, QualityStop
from pipeline.model.manifest import Task
from tests import small_models
from tests.calling import Cli
from tests.small_models import ITEMS, NAMES, member
from tests.workspace import DAY, Workspace, table

ROWS = 150


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace(tmp_path)
    made.job()
    made.day(ROWS)
    return made


def versions(workspace: Workspace, task: str) -> list[dict[str, Any]]:
    """Registers two versions; returns the outputs of both for the day."""
    found = []
    for version, seed in (("v1", 0), ("v2", 7)):
        small_models.register(workspace, task, version, seed)
        scorer = Scorer.load("toy", version, models=workspace.settings.models)
        found.append(
            {
                name: column.to_pylist()
                for name, column in zip(scorer.schema.names, scorer.score(table(ROWS)).columns, strict=True)
            }
        )
    return found


def label(workspace: Workspace, task: Task, truth: list[Any], file: str = "labels") -> None:
    path = workspace.lake / f"labels/job=toy/ds={DAY}/{file}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"id": [f"u{row}" for row in range(len(truth))], STORED[task]: truth}), path)


def compared(workspace: Workspace) -> Comparison:
    return compare(workspace.context(), "v1", "v2")


def test_regressions_are_compared_by_their_values(workspace: Workspace) -> None:
    a, b = (np.array(each["value"]) for each in versions(workspace, "quantiles"))
    truth = np.array(small_models.truths("quantiles", ROWS))
    label(workspace, "regression", truth.tolist())
    found = compared(workspace)
    assert (found.task, found.target, found.flip_share, found.flips) == ("regression", None, None, [])
    assert found.summary["mean_shift"] == pytest.approx((b - a).mean(), abs=1e-6)
    assert found.summary["correlation"] == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-6)
    edges = [row["low"] for row in found.histogram] + [found.histogram[-1]["high"]]
    assert (edges[0], edges[-1]) == pytest.approx((min(a.min(), b.min()), max(a.max(), b.max())))
    assert [row["rows_a"] for row in found.histogram] == np.histogram(a, edges)[0].tolist()
    assert sum(row["rows_b"] for row in found.histogram) == ROWS
    for row, value in zip(found.performance, (a, b), strict=True):
        assert row["mae"] == pytest.approx(metrics.mean_absolute_error(truth, value), rel=1e-6)
        assert row["r2"] == pytest.approx(metrics.r2_score(truth, value), rel=1e-5)
        assert [each["level"] for each in row["quantiles"]] == [0.1, 0.5, 0.9]
    assert found.segments
    assert all(row["share"] is None for row in found.segments)
    with pytest.raises(ModelMismatch, match="makes no decisions"):
        gate(found, 0.5)


def test_multi_label_models_are_compared_by_their_labels(workspace: Workspace) -> None:
    a, b = versions(workspace, "multilabel")
    truth = small_models.truths("multilabel", ROWS)
    label(workspace, "multilabel", truth)
    found = compared(workspace)
    first, second = (member(each["prediction"], NAMES) for each in (a, b))
    assert found.summary["flips"] == (first != second).any(axis=1).sum() > 0
    for row in found.flips:
        index = NAMES.index(row["label"])
        assert row["added"] == ((first[:, index] == 0) & (second[:, index] == 1)).sum()
        assert row["removed"] == ((first[:, index] == 1) & (second[:, index] == 0)).sum()
    assert found.target == "sport"
    for row, outputs, decided in zip(found.performance, (a, b), (first, second), strict=True):
        true = member(truth, NAMES)
        assert row["auc"] == pytest.approx(metrics.roc_auc_score(true[:, 2], outputs["prob_class_2"]))
        assert row["log_loss"] == pytest.approx(metrics.log_loss(true[:, 2], outputs["prob_class_2"]), rel=1e-5)
        assert row["accuracy"] == pytest.approx(metrics.accuracy_score(true, decided))
    with pytest.raises(QualityStop):
        gate(found, 0.0)


def test_order_of_the_labels_of_a_version_does_not_matter(workspace: Workspace) -> None:
    first, _ = versions(workspace, "multilabel")
    small_models.register(workspace, "multilabel", "v3", classes=NAMES[::-1])
    found = compare(workspace.context(), "v1", "v3", target="news")
    swap = dict(zip(NAMES, NAMES[::-1], strict=True))
    changed = [set(each) != {swap[name] for name in each} for each in first["prediction"]]
    assert found.summary["flips"] == sum(changed) < ROWS
    assert found.summary["largest_shift"] == 0  # the label in the middle has the same weights
    swapped = {row["label"]: (row["rows_a"], row["rows_b"]) for row in found.flips}
    assert swapped["arts"] == swapped["sport"][::-1]


def test_rankings_are_compared_by_the_items_in_common(workspace: Workspace) -> None:
    a, b = (each["top_items"] for each in versions(workspace, "ranking"))
    truth = [each or ["sku-3"] for each in small_models.truths("ranking", ROWS)]
    label(workspace, "ranking", truth)
    found = compared(workspace)
    assert found.summary["flips"] == sum(left[0] != right[0] for left, right in zip(a, b, strict=True))
    assert (found.histogram, found.summary["mean_a"]) == ([], None)
    assert [row["k"] for row in found.overlap] == [1, 5, 10]
    for row in found.overlap:
        k = row["k"]
        common = [len(set(left[:k]) & set(right[:k])) for left, right in zip(a, b, strict=True)]
        assert (row["in_both"], row["overlap"]) == pytest.approx((np.mean(common), np.mean(common) / k))
        assert row["same"] == pytest.approx(np.mean([left[:k] == right[:k] for left, right in zip(a, b, strict=True)]))
    relevant = member(truth, ITEMS)
    for row, lists in zip(found.performance, (a, b), strict=True):
        scores = np.array([[20 - each.index(item) if item in each else 0 for item in ITEMS] for each in lists])
        at = {each["k"]: each for each in row["at_k"]}
        assert at[5]["ndcg"] == pytest.approx(metrics.ndcg_score(relevant, scores, k=5, ignore_ties=True))
        hits = [len(set(each[:5]) & set(given)) / 5 for each, given in zip(lists, truth, strict=True)]
        assert at[5]["precision"] == pytest.approx(np.mean(hits))


def test_classes_are_compared_with_auc_and_the_log_loss_of_all_classes(workspace: Workspace) -> None:
    outputs = versions(workspace, "multi-class")
    truth = small_models.truths("multi-class", ROWS)
    label(workspace, "classification", ["arts"] * ROWS, "0-earlier")
    label(workspace, "classification", truth, "1-newer")
    found = compare(workspace.context(), "v1", "v2", target="news")
    for row, each in zip(found.performance, outputs, strict=True):
        scores = np.column_stack([each[f"prob_class_{index}"] for index in range(3)])
        assert (row["class"], row["rows"]) == ("news", ROWS)
        assert row["auc"] == pytest.approx(metrics.roc_auc_score(np.array(truth) == "news", scores[:, 1]))
        expected = metrics.log_loss(truth, scores / scores.sum(axis=1, keepdims=True), labels=NAMES)
        assert row["log_loss"] == pytest.approx(expected, rel=1e-5)
        assert row["shift"] == pytest.approx(row["mean_score"] - row["base_rate"])


def test_missing_numbers_say_why(workspace: Workspace) -> None:
    versions(workspace, "classification")
    label(workspace, "classification", ["yes"] * ROWS)
    found = compared(workspace)
    assert [row["auc"] for row in found.performance] == [None, None]
    assert "v1: no AUC: every label is yes" in tables.notes(found)


def test_labels_of_another_task_are_left_out_and_said(workspace: Workspace) -> None:
    versions(workspace, "regression")
    label(workspace, "classification", ["yes"] * ROWS)
    found = compared(workspace)
    assert found.performance == []
    assert found.notes == (f"the labels of {DAY} were imported for a model of another task, and are left out",)


def test_versions_of_different_tasks_are_not_compared(workspace: Workspace) -> None:
    small_models.register(workspace, "regression")
    small_models.register(workspace, "classification", "v2")
    with pytest.raises(ModelMismatch, match="different tasks"):
        compared(workspace)
    with pytest.raises(ModelMismatch, match="has no classes"):
        compare(workspace.context(), "v1", "v1", target="yes")


SHOWN: dict[str, tuple[Task, str, str]] = {
    "classification": ("classification", "decisions that flip", "auc"),
    "quantiles": ("regression", "rmse", "pinball"),
    "multilabel": ("multilabel", "rows whose labels differ", "only v2"),
    "ranking": ("ranking", "same order", "ndcg"),
}


@pytest.mark.parametrize("task", SHOWN)
def test_command_and_page_show_each_task(
    workspace: Workspace, cli: Cli, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    versions(workspace, task)
    of, *texts = SHOWN[task]
    label(workspace, of, small_models.truths(task, ROWS))
    for name in ("lake", "jobs", "models"):
        monkeypatch.setenv(f"LAKESCORE_{name.upper()}", str(getattr(workspace.settings, name)))
    shown = cli("compare", "v1", "v2", "--job", "toy").stdout
    page = (workspace.lake / "reports/job=toy/compare/v1-v2.html").read_text()
    for text in texts:
        assert text in shown
        assert text in page
