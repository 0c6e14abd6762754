"""The table of docs/models.md, task by command: the names in each cell are those that the commands give."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.compare.findings import compare
from pipeline.explain.explaining import explain
from pipeline.profiles import store
from tests import small_models
from tests.docs.documented import DOCS
from tests.drift.test_labels import bring
from tests.workspace import Workspace

ROWS = 160
TASKS = {
    "classification": "classification",
    "regression": "regression",
    "regression with quantiles": "quantiles",
    "multi-label": "multilabel",
    "ranking": "ranking",
}
ATTRIBUTED = {
    "classification": r"prob_class_\d",
    "regression": "value",
    "regression with quantiles": "value",
    "multi-label": r"prob_class_\d",
    "ranking": r"score of sku-\d+",
}


def cells() -> dict[str, list[str]]:
    """Returns the cells of each row, by task."""
    text = (DOCS / "models.md").read_text("utf-8").partition("## What each command does with each task")[2]
    lines = [line for line in text.partition("\n## ")[0].splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return {task: rest for task, *rest in rows}


def names(cell: str) -> set[str]:
    return set(re.findall(r"`(\w+)`", cell))


def test_table_has_each_task() -> None:
    assert list(cells()) == list(TASKS)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_cells_of_a_task_are_true(tmp_path: Path, task: str) -> None:
    stored, labels, comparison, explained, profile = cells()[task]
    workspace = Workspace(tmp_path)
    workspace.job()
    small_models.register(workspace, TASKS[task])
    small_models.register(workspace, TASKS[task], "v2", seed=5)
    workspace.day(ROWS)
    record = workspace.complete()
    assert names(stored) <= set(workspace.stored()[0])

    truth = small_models.truths(TASKS[task], ROWS)
    bring(workspace, {"id": [f"u{row}" for row in range(ROWS)], "truth": truth})
    found = store.of_run(workspace.context().lake, "performance", record)
    assert found is not None
    measured = {name for name, value in found.to_pylist()[0].items() if value is not None}
    ours = {"class", "rows", "positives", "predictions", "run_id", "computed_at", "note", "mean_score", "base_rate"}
    assert measured - ours - {"calibration", "job", "ds", "model_version"} == names(labels)

    compared: dict[str, Any] = compare(workspace.context(), "v1", "v2").as_dict()
    assert {name for name in ("flips", "overlap", "histogram", "segments") if compared[name]} == names(comparison)
    assert len(compared["performance"]) == 2

    answer = explain(workspace.context(), "u1", replay=True)
    attribution = answer.predictions[0].attribution
    assert explained
    assert attribution is not None
    assert re.fullmatch(ATTRIBUTED[task], attribution.target)
    assert sum(attribution.shares.values()) == pytest.approx(attribution.score - attribution.baseline_score, abs=1e-5)

    profiles = store.of_run(workspace.context().lake, "profiles", record)
    assert profiles is not None
    assert names(profile) <= set(profiles.column("column_name").to_pylist())
