"""The performance of each task, against scikit-learn's functions over what is stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn import metrics

from pipeline.errors import SchemaMismatch
from pipeline.ingest.publishing import Existing
from pipeline.report import facts, plots
from tests import small_models
from tests.calling import Cli
from tests.drift.test_labels import bring, view
from tests.small_models import ITEMS, NAMES, member
from tests.workspace import Workspace

ROWS = 120


def scored(root: Path, task: str, rows: int = ROWS) -> Workspace:
    """A day that a model of a task has scored."""
    workspace = Workspace(root)
    workspace.job()
    small_models.register(workspace, task)
    workspace.day(rows)
    workspace.complete()
    return workspace


def label(workspace: Workspace, truth: list[Any], existing: Existing = Existing.refuse) -> None:
    bring(workspace, {"id": [f"u{row}" for row in range(len(truth))], "truth": truth}, existing)


def stored(workspace: Workspace, *columns: str) -> list[np.ndarray]:
    rows = {row["id"]: row for row in workspace.stored()}
    return [np.array([rows[f"u{row}"][name] for row in range(len(rows))]) for name in columns]


def one(workspace: Workspace) -> dict[str, Any]:
    (found,) = view(workspace, "FROM performance")
    return found


@pytest.mark.parametrize("task", ["regression", "quantiles", "variance"])
def test_performance_of_a_regression_is_what_sklearn_says(tmp_path: Path, task: str) -> None:
    workspace = scored(tmp_path, task)
    truth = np.array(small_models.truths(task, ROWS))
    label(workspace, truth.tolist())
    (value,) = stored(workspace, "value")
    found = one(workspace)
    assert (found["rows"], found["predictions"], found["class"], found["auc"]) == (ROWS, ROWS, None, None)
    assert found["bias"] == pytest.approx((value - truth).mean())
    assert found["mae"] == pytest.approx(metrics.mean_absolute_error(truth, value))
    assert found["rmse"] == pytest.approx(metrics.root_mean_squared_error(truth, value))
    assert found["r2"] == pytest.approx(metrics.r2_score(truth, value))
    assert (found["mean_score"], found["mean_label"]) == pytest.approx((value.mean(), truth.mean()))
    levels = {"regression": {}, "quantiles": {0.1: "value_q10", 0.5: "value_q50", 0.9: "value_q90"}}.get(task)
    at = {level: stored(workspace, name)[0] for level, name in (levels or {}).items()}
    if task == "variance":
        deviation = np.sqrt(stored(workspace, "value_variance")[0])
        at = {0.05: value - 1.6448536 * deviation, 0.95: value + 1.6448536 * deviation}
    assert [each["level"] for each in found["quantiles"] or []] == list(at)
    for each in found["quantiles"] or []:
        assert each["covered"] == pytest.approx((truth <= at[each["level"]]).mean())
        expected = metrics.mean_pinball_loss(truth, at[each["level"]], alpha=each["level"])
        assert each["pinball"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("task", ["multi-class", "multilabel"])
def test_performance_of_classes_and_labels_is_what_sklearn_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    if task == "multilabel":  # computed as with many labels
        monkeypatch.setattr("pipeline.database.wide.FEW", 0)
    workspace = scored(tmp_path, task)
    given = small_models.truths(task, ROWS)
    label(workspace, given)
    rows = {row["id"]: row for row in workspace.stored()}
    chosen = [rows[f"u{row}"]["prediction"] for row in range(ROWS)]
    as_lists = [each if isinstance(each, list) else [each] for each in given]
    truth = member(as_lists, NAMES)
    decided = member([each if isinstance(each, list) else [each] for each in chosen], NAMES)
    scores = np.column_stack(stored(workspace, *(f"prob_class_{index}" for index in range(3)))).astype(float)
    found = view(workspace, "FROM performance ORDER BY class")
    assert [row["class"] for row in found] == NAMES
    for index, row in enumerate(found):
        true, score = truth[:, index], scores[:, index]
        precision, recall, f1, _ = metrics.precision_recall_fscore_support(true, decided[:, index], average="binary")
        assert (row["precision"], row["recall"], row["f1"]) == pytest.approx((precision, recall, f1))
        assert row["auc"] == pytest.approx(metrics.roc_auc_score(true, score))
        assert row["brier"] == pytest.approx(metrics.brier_score_loss(true, score))
        of_label = (
            metrics.log_loss(true, score)
            if task == "multilabel"
            else metrics.log_loss(given, scores / scores.sum(axis=1, keepdims=True), labels=NAMES)
        )
        assert row["log_loss"] == pytest.approx(of_label, rel=1e-5)
        assert row["accuracy"] == pytest.approx(metrics.accuracy_score(truth, decided))
        assert row["note"] is None


def test_performance_of_a_ranking_is_what_sklearn_says(tmp_path: Path) -> None:
    workspace = scored(tmp_path, "ranking")
    truth = small_models.truths("ranking", ROWS)
    label(workspace, truth)
    rows = {row["id"]: row["top_items"] for row in workspace.stored()}
    ranked = [rows[f"u{row}"] for row in range(ROWS)]
    kept = [row for row, each in enumerate(truth) if each]
    assert 0 < len(kept) < ROWS
    found = one(workspace)
    assert (found["rows"], found["predictions"], found["class"]) == (len(kept), ROWS, None)
    assert found["note"] == f"{ROWS - len(kept)} lists without a relevant item are left out"
    relevant = member([truth[row] for row in kept], ITEMS)
    scores = np.array(
        [[len(ITEMS) - ranked[row].index(item) if item in ranked[row] else 0 for item in ITEMS] for row in kept]
    )
    assert [each["k"] for each in found["at_k"]] == [1, 5, 10]
    for each in found["at_k"]:
        k = each["k"]
        hits = np.array([len(set(ranked[row][:k]) & set(truth[row])) for row in kept])
        assert each["precision"] == pytest.approx((hits / k).mean())
        assert each["recall"] == pytest.approx((hits / relevant.sum(axis=1)).mean())
        assert each["hit_rate"] == pytest.approx((hits > 0).mean())
        assert each["ndcg"] == pytest.approx(metrics.ndcg_score(relevant, scores, k=k, ignore_ties=True))


@pytest.mark.parametrize(
    ("task", "truth", "absent", "note"),
    [
        ("classification", ["no"] * 9, ("auc", "recall"), "no AUC and no recall: no label is yes"),
        ("classification", ["yes"] * 9, ("auc",), "no AUC: every label is yes"),
        ("regression", [2.0] * 9, ("r2",), "no R2: all labels are equal"),
        ("ranking", [[]] * 9, (), "9 lists without a relevant item are left out"),
    ],
    ids=["no label of the class", "each label of the class", "equal values", "nothing relevant"],
)
def test_what_cannot_be_computed_is_null_and_says_why(
    tmp_path: Path, task: str, truth: list[Any], absent: tuple[str, ...], note: str
) -> None:
    workspace = scored(tmp_path, task)
    label(workspace, pa.array(truth, pa.list_(pa.string())) if task == "ranking" else truth)
    found = one(workspace)
    assert {name: found[name] for name in absent} == dict.fromkeys(absent)
    assert found["note"] == note
    assert found["rows"] == (0 if task == "ranking" else 9)
    assert task != "ranking" or found["at_k"] == []


@pytest.mark.parametrize(
    ("task", "truth", "what"),
    [
        ("regression", ["1", "2"], "numbers, and 'truth' is not"),
        ("regression", [1.0, float("nan")], "1 labels are NaN or infinite"),
        ("multilabel", ["news", "arts"], "one list column, or one column per label"),
        ("multilabel", [["news"], ["weather"]], "not a class of the job's model"),
        ("multilabel", [["news"], [None]], "1 lists in 'truth' contain NULL"),
        ("ranking", ["sku-1", "sku-2"], "lists of relevant items"),
        ("ranking", [["sku-1"], ["SKU-2"]], "not an item of the job's model"),
        ("classification", [["yes"], ["no"]], "is a list"),
    ],
)
def test_labels_that_a_task_cannot_have_are_refused(tmp_path: Path, task: str, truth: list[Any], what: str) -> None:
    workspace = Workspace(tmp_path)
    workspace.job()
    small_models.register(workspace, task)
    with pytest.raises(SchemaMismatch, match=what):
        label(workspace, truth)
    assert not list(workspace.lake.glob("labels/**/*.parquet"))


def test_labels_of_one_column_each_are_the_lists(tmp_path: Path, cli: Cli) -> None:
    workspace = Workspace(tmp_path)
    workspace.job()
    small_models.register(workspace, "multilabel")
    workspace.day(4)
    path = workspace.root / "labels.csv"
    path.write_text("id,arts,news,sport\nu0,1,0,1\nu1,0,0,0\nu2,,,\n")
    names = [word for name in NAMES for word in ("--label", name)]
    options = ("--date", "2026-01-01", "--job", workspace.settings.jobs / "toy")
    cli("labels", "import", path, *names, *options)
    wanted = "SELECT key_text, label, label_items FROM labels ORDER BY ALL"
    assert [tuple(row.values()) for row in view(workspace, wanted)] == [
        ("u0", None, ["arts", "sport"]),
        ("u1", None, []),
    ]
    cli("labels", "import", path, *names[2:], *options, "--replace", expect=SchemaMismatch)
    path.write_text("id,arts,news,sport\nu0,1,,1\n")
    cli("labels", "import", path, *names, *options, "--replace", expect=SchemaMismatch)
    path.write_text("id,arts,news,sport\nu0,1,2,1\n")
    cli("labels", "import", path, *names, *options, "--replace", expect=SchemaMismatch)


def test_lists_of_text_files_are_labels(tmp_path: Path, cli: Cli) -> None:
    workspace = Workspace(tmp_path)
    workspace.job()
    small_models.register(workspace, "ranking")
    workspace.day(4)
    path = workspace.root / "bought.csv"
    path.write_text('id,bought\nu0,"[sku-1, sku-7]"\nu1,[]\n')
    where = ("--date", "2026-01-01", "--job", workspace.settings.jobs / "toy")
    done = cli("labels", "import", path, "--label", "bought", "--types", "bought=VARCHAR[]", *where)
    assert "rank_trend" in done.stdout
    assert view(workspace, "SELECT label_items FROM labels ORDER BY key_text") == [
        {"label_items": ["sku-1", "sku-7"]},
        {"label_items": []},
    ]


def test_labels_of_another_task_are_not_measured(tmp_path: Path) -> None:
    workspace = scored(tmp_path, "regression", 20)
    label(workspace, [1.5] * 20)
    small_models.register(workspace, "classification", "v2")
    job = workspace.settings.jobs / "toy" / "job.toml"
    job.write_text(job.read_text().replace('name = "toy"', 'name = "toy"\nversion = "v2"'))
    record = workspace.complete()
    assert [text for text in record.warnings if "imported for a model of another task" in text]


def test_labels_of_the_task_count_beside_those_of_another(tmp_path: Path) -> None:
    workspace = scored(tmp_path, "regression", 20)
    path = workspace.lake / "labels/job=toy/ds=2026-01-01/0-earlier.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table({"id": [f"u{row}" for row in range(20)], "label": ["yes"] * 20}), path)
    label(workspace, [1.5, 2.5], Existing.append)
    found = one(workspace)
    assert (found["rows"], found["mean_label"]) == (2, 2.0)


@pytest.mark.parametrize(("task", "title"), [("regression", "Error"), ("ranking", "Ranking at 10")])
def test_index_of_the_reports_plots_the_performance(tmp_path: Path, task: str, title: str) -> None:
    workspace = scored(tmp_path, task, 30)
    label(workspace, small_models.truths(task, 30))
    days = facts.job_facts(workspace.context().lake, "toy")
    (made,) = [plot for plot in plots.of_job(days) if plot.title == title]
    (row,) = made.rows
    found = one(workspace)
    expected = (
        (found["mae"], found["bias"])
        if task == "regression"
        else (found["at_k"][-1]["ndcg"], found["at_k"][-1]["precision"])
    )
    assert row[1:3] == pytest.approx(expected)
    assert not [plot for plot in plots.of_job(days) if plot.title == "AUC"]
