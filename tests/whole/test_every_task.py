"""Each task from the model's file to the answer: `lakescore run` in a process, then what is asked afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from pipeline.cli.commands import command_line
from tests.conftest import Lakescore
from tests.model.programs import export
from tests.workspace import DAY, Workspace

ROWS, ITEMS, TOP = 2000, 10_000, 10
LABELS = ["sport", "news", "arts"]
CLASS = ("prediction", "prediction_proba")


class Quantiles(nn.Module):
    """Three values that never cross."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raw = self.inner(x)
        return torch.cumsum(torch.cat([raw[:, :1], nn.functional.softplus(raw[:, 1:])], dim=1), dim=1)


def network(outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, outputs))


def save_state(path: Path, module: nn.Module) -> Path:
    torch.save({"model_state_dict": module.state_dict(), "architecture": "mlp:relu"}, path)
    return path


def save_weights(path: Path, module: nn.Module) -> Path:
    save_file(module.state_dict(), path, metadata={"architecture": "mlp:relu"})
    return path


def save_program(path: Path, module: nn.Module) -> Path:
    return export(path, module, 2)


def softmax(raw: Any) -> Any:
    return torch.softmax(torch.from_numpy(raw), 1).numpy()


def of_classes(raw: Any) -> dict[str, Any]:
    scores = softmax(raw)
    columns = {f"prob_class_{index}": scores[:, index] for index in range(scores.shape[1])}
    return {"prediction": scores.argmax(axis=1).tolist(), "prediction_proba": scores.max(axis=1), **columns}


def of_labels(raw: Any) -> dict[str, Any]:
    scores = 1 / (1 + np.exp(-raw))
    lists = [[label for label, score in zip(LABELS, row, strict=True) if score >= 0.5] for row in scores]
    return {"prediction": lists, **{f"prob_class_{index}": scores[:, index] for index in range(3)}}


def of_quantiles(raw: Any) -> dict[str, Any]:
    return {"value": raw[:, 1], "value_q10": raw[:, 0], "value_q50": raw[:, 1], "value_q90": raw[:, 2]}


def of_items(raw: Any) -> dict[str, Any]:
    order = np.argsort(-raw, axis=1)[:, :TOP]
    return {"top_items": order.tolist(), "top_scores": np.take_along_axis(raw, order, 1)}


@dataclass(frozen=True)
class Case:
    module: Callable[[], nn.Module]
    save: Callable[[Path, nn.Module], Path]
    expected: Callable[[Any], dict[str, Any]]
    """From what the module gives, (rows, outputs), to what is stored."""
    named: str
    """A query that follows the task."""
    counted: set[str]
    """The columns of its profile, beside the features."""
    signature: dict[str, Any] = field(default_factory=dict)


TASKS = {
    "binary": Case(lambda: network(2), save_state, of_classes, "class_distribution", {"prob_class_1", *CLASS}),
    "multi-class": Case(
        lambda: network(5),
        save_weights,
        of_classes,
        "class_distribution",
        {*CLASS, *(f"prob_class_{index}" for index in range(5))},
    ),
    "regression": Case(
        Quantiles,
        save_program,
        of_quantiles,
        "value_distribution",
        {"value", "value_q10", "value_q50", "value_q90"},
        {"task": "regression", "quantiles": [0.1, 0.5, 0.9]},
    ),
    "multi-label": Case(
        lambda: network(3),
        save_program,
        of_labels,
        "label_distribution",
        {"prob_class_0", "prob_class_1", "prob_class_2"},
        {"task": "multilabel", "classes": LABELS},
    ),
    "top-k": Case(
        lambda: network(ITEMS),
        save_state,
        of_items,
        "item_distribution",
        {"top_scores"},
        {"task": "ranking", "top": TOP},
    ),
}


def ask(*arguments: str) -> Any:
    done = CliRunner().invoke(command_line(), [*arguments, "--json"])
    assert (done.exit_code, done.exception) == (0, None), done.output
    return json.loads(done.stdout)


Rows = list[dict[str, Any]]


def check_stored(stored: Rows, expected: dict[str, Any]) -> None:
    ours = {"id", "b", "scored_at", "run_id", "reason", "fingerprint", "revision", "job", "ds", "model_version"}
    assert set(stored[0]) - ours == set(expected)
    for name, values in expected.items():
        found = [row[name] for row in stored]
        if isinstance(values, list):
            assert found == values, name
        else:
            np.testing.assert_allclose(found, values, rtol=1e-5, atol=1e-5, err_msg=name)


def check_asked(case: Case, stored: Rows) -> None:
    assert ask("verify") == []
    assert ask("query", case.named), "the query that follows the task has no rows"
    (history,) = ask("query", "prediction_history", "--param", "key=7")
    assert (history["revision"], history["is_current"]) == (0, True)
    assert ask("query", "daily_summary")[0]["rows"] == ROWS
    if case.named == "item_distribution":
        found = ask("query", "rankings", "--param", "key=7")
        assert [(row["rank"], int(row["item"])) for row in found] == list(enumerate(stored[7]["top_items"], start=1))


def check_profile(case: Case, stored: Rows) -> None:
    profile = ask("query", "SELECT * FROM profiles")
    assert {row["column_name"] for row in profile} == {"a", "b", *case.counted}
    assert {row["rows"] for row in profile} == {ROWS}
    first = next(iter(case.counted - set(CLASS)))
    low = next(row["low"] for row in profile if row["column_name"] == first)
    values = [row[first][0] if first == "top_scores" else row[first] for row in stored]
    assert low == pytest.approx(min(values), abs=1e-6)


def check_explained(case: Case, outputs: set[str]) -> None:
    (told,) = ask("explain", "7", "--job", "toy", "--replay")["predictions"]
    assert set(told["outputs"]) == outputs
    assert told["input"]["same"]
    assert told["replay"]["difference"] <= told["replay"]["tolerance"]
    added = told["attribution"]["baseline_score"] + sum(told["attribution"]["shares"].values())
    assert added == pytest.approx(told["attribution"]["score"], abs=1e-5)
    shown = CliRunner().invoke(command_line(), ["explain", "7", "--job", "toy", "--replay"])
    assert (shown.exit_code, shown.exception) == (0, None)


@pytest.mark.slow
@pytest.mark.parametrize("case", TASKS.values(), ids=TASKS)
def test_task_from_the_file_to_the_answer(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lakescore: Lakescore
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(7)
    module = case.module().eval()
    path = case.save(tmp_path / "model.pt2", module)
    (tmp_path / "signature.json").write_text(json.dumps(case.signature))
    options = "--name toy --version v1 --features a,b --signature signature.json --alias production"
    ask("models", "register", path.name, *options.split())

    workspace = Workspace(tmp_path)
    workspace.job(reads='carry = ["b"]')
    rng = np.random.default_rng(3)
    rows = pa.table({"id": np.arange(ROWS), "a": rng.normal(size=ROWS), "b": rng.normal(size=ROWS)})
    workspace.day(rows.slice(0, 1500), file="one.parquet")
    workspace.day(rows.slice(1500), file="two.parquet")

    (outcome,) = json.loads(lakescore("run", "--job", "toy", "--date", DAY, "--json").stdout)
    assert (outcome["state"], outcome["ledger"]["scored"]) == ("complete", ROWS)
    assert not [check for check in outcome["checks"] if check["outcome"] in ("stopped", "quarantined")]

    stored = sorted(workspace.stored(), key=lambda row: row["id"])
    matrix = np.column_stack([rows["a"].to_numpy(), rows["b"].to_numpy()]).astype(np.float32)
    with torch.inference_mode():
        expected = case.expected(module(torch.from_numpy(matrix)).numpy())
    check_stored(stored, expected)
    check_asked(case, stored)
    check_profile(case, stored)
    check_explained(case, set(expected))
    page = next((workspace.lake / "reports").rglob(f"{outcome['run_id']}.html")).read_text("utf-8")
    assert ("values from" in page) == (case.named == "value_distribution")

    changed = rows.set_column(2, "b", pa.array(np.where(np.arange(ROWS) < 3, 9.0, rows["b"].to_numpy())))
    workspace.day(changed.slice(0, 1500), file="one.parquet")
    record = workspace.complete()
    assert record.statistics.reasons == {"changed": 3}
    assert not [text for text in record.warnings if "profile" in text or "drift" in text], record.warnings
    assert ask("query", "SELECT count(*) AS n FROM predictions")[0]["n"] == ROWS
    assert workspace.run().up_to_date
