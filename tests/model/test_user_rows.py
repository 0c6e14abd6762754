"""Training rows and golden examples from files of text are read by the rules of import."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.errors import LakescoreError, ModelRefused, SchemaMismatch
from pipeline.model.registry import Registry
from pipeline.tabular import sources
from tests.calling import Cli
from tests.workspace import Workspace

MANY = 25_000  # rows: more than any sample from which types are inferred
REGISTER = ("models", "register", "toy-v1.pt", "--name", "toy", "--features", "a,b", "--version")


def means(workspace: Workspace, version: str) -> dict[str, float]:
    kept = pq.read_table(workspace.root / "models" / "toy" / version / "baseline.parquet").to_pylist()
    return {row["column_name"]: row["mean"] for row in kept}


def test_baseline_counts_late_decimals_as_they_are(workspace: Workspace, cli: Cli) -> None:
    rows = ["1,5"] * MANY + ["1.5,5"] * MANY
    (workspace.root / "training.csv").write_text("a,b\n" + "\n".join(rows) + "\n")
    cli(*REGISTER, "v2", "--baseline", "training.csv")
    assert means(workspace, "v2")["a"] == pytest.approx(1.25)


@pytest.mark.slow
def test_baseline_takes_decimal_commas_and_types(workspace: Workspace, cli: Cli) -> None:
    (workspace.root / "training.csv").write_text("a;b\n" + "1,5;007\n" * 50 + "2,5;7\n" * 50)
    assert "--decimal ," in cli(*REGISTER, "v2", "--baseline", "training.csv", expect=SchemaMismatch).stderr
    refused = cli(*REGISTER, "v2", "--baseline", "training.csv", "--decimal", ",", expect=SchemaMismatch).stderr
    assert "line 2" in refused
    assert "--types b=DOUBLE" in refused
    cli(*REGISTER, "v2", "--baseline", "training.csv", "--decimal", ",", "--types", "b=DOUBLE")
    found = means(workspace, "v2")
    assert (found["a"], found["b"]) == pytest.approx((2.0, 7.0))


def probabilities(workspace: Workspace, rows: list[tuple[float, float]]) -> list[list[float]]:
    """Returns the probabilities of the same network, computed by hand."""
    state = torch.load(workspace.root / "toy-v1.pt", weights_only=True)["model_state_dict"]
    x = torch.tensor(rows, dtype=torch.float32)  # (rows, 2)
    for layer in range(3):
        x = x @ state[f"fc{layer}.weight"].T + state[f"fc{layer}.bias"]
        x = torch.relu(x) if layer < 2 else torch.softmax(x, 1)
    found: list[list[float]] = x.double().tolist()
    return found


ROWS = [(1.0, 7.0), (2.5, 0.25), (-3.0, 1e-5)]


@pytest.mark.parametrize(
    ("name", "text", "options"),
    [
        (
            "golden.csv",
            "a,b,prob_class_0\n1,7,{0:.20f}\n2.5,0.25,{1!r}\n-3,1e-5,{2!r}\n",
            ["--types=prob_class_0=DOUBLE"],
        ),
        ("golden.csv", "a,b,prob_class_0\n1,7,{0!r}\n2.5,0.25,{1!r}\n-3,1e-5,{2!r}\n", []),
        ("golden.jsonl", '{{"a": 1, "b": 7}}\n{{"a": 2.5, "b": 0.25}}\n{{"a": -3, "b": 1e-5}}\n', []),
    ],
)
def test_golden_examples_of_text_are_stored_in_order(
    workspace: Workspace, cli: Cli, name: str, text: str, options: list[str]
) -> None:
    expected = probabilities(workspace, ROWS)
    (workspace.root / name).write_text(text.format(*(row[0] for row in expected)))
    cli(*REGISTER, "v2", "--golden", name, *options)
    kept = pq.read_table(workspace.root / "models" / "toy" / "v2" / "golden.parquet")
    assert list(zip(kept["a"].to_pylist(), kept["b"].to_pylist(), strict=True)) == ROWS
    np.testing.assert_allclose(kept["__prob_class_0"].to_pylist(), [row[0] for row in expected], atol=1e-6)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("a,b\n1,007\n", SchemaMismatch, "line 2"),
        ("a,b,prob_class_0\n1,2,high\n", SchemaMismatch, "'high'"),
        ("a,b,prob_class_0\n1,2,0.123\n", ModelRefused, "does not reproduce"),
        ("a\n1\n", ModelRefused, "without b"),
    ],
)
def test_golden_examples_of_text_that_do_not_fit_are_refused(
    workspace: Workspace, text: str, error: type[LakescoreError], message: str
) -> None:
    (workspace.root / "golden.csv").write_text(text)
    registry, examples = Registry(Path(workspace.settings.models)), sources.find([workspace.root / "golden.csv"])
    with pytest.raises(error, match=message):
        registry.register(
            workspace.root / "toy-v1.pt", name="toy", version="v2", features=["a", "b"], examples=examples
        )
