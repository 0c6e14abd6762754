"""Lists of varying length: filled up or cut as the signature says, for a recurrent network and one with attention."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn
from torch.export import Dim

from pipeline.api.scorer import Scorer
from pipeline.errors import ModelError, SchemaMismatch
from pipeline.explain.explaining import explain
from pipeline.model.card import Card
from pipeline.model.inputs import Input
from pipeline.model.matrix import row_fingerprints, to_matrix
from pipeline.model.registry import Registry
from tests.workspace import DAY, Workspace

INPUT: TypeAdapter[Input] = TypeAdapter(Input)
NAN, INF = math.nan, math.inf
LISTS = [[1, 2], [], None, [1, 2, 3], [1, 2, 3, 4, 5]]


def batch(values: list[Any], form: pa.DataType) -> pa.RecordBatch:
    """The values after two others, so that offsets do not begin at 0."""
    return pa.record_batch({"x": pa.array([[9], None, *values], form)[2:]})


def encoded(values: list[Any], form: pa.DataType | None = None, **how: Any) -> list[list[float]]:
    declared = INPUT.validate_python({"kind": "sequence", "length": 3, **how})
    return to_matrix(batch(values, form or pa.list_(pa.int64())), ["x"], {"x": declared}).tolist()


@pytest.mark.parametrize("form", [pa.list_(pa.float32()), pa.list_(pa.int16()), pa.large_list(pa.float64())])
@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"side": "right"}, [[1, 2, 0], [0, 0, 0], [NAN] * 3, [1, 2, 3], [INF] * 3]),
        ({"side": "left", "pad": -1}, [[-1, 1, 2], [-1, -1, -1], [NAN] * 3, [1, 2, 3], [INF] * 3]),
        (
            {"side": "right", "longer": "first", "null": "empty"},
            [[1, 2, 0], [0, 0, 0], [0, 0, 0], [1, 2, 3], [1, 2, 3]],
        ),
        (
            {"side": "left", "longer": "last", "encode": "int64"},
            [[0, 1, 2], [0, 0, 0], [NAN] * 3, [1, 2, 3], [3, 4, 5]],
        ),
    ],
)
def test_list_is_filled_up_or_cut_as_declared(
    how: dict[str, Any], expected: list[list[float]], form: pa.DataType
) -> None:
    np.testing.assert_array_equal(encoded(LISTS, form, **how), expected)


def test_element_that_the_model_does_not_take_marks_its_row() -> None:
    how = {"side": "right", "encode": "int64", "min": 0, "max": 2**23}
    values = [[1, None], [-1], [2**23 + 1], [2**40], [2**23]]
    found = encoded(values, **how)
    assert [INF in row for row in found] == [True, True, True, True, False]
    assert encoded([[0.5], [2.0**24], [2.0**24 + 2], [NAN]], pa.list_(pa.float64()), side="right", encode="int64") == [
        [INF, 0, 0],
        [2.0**24, 0, 0],
        [INF, 0, 0],
        [INF, 0, 0],
    ]
    assert encoded([[0.5, None], [1e300]], pa.list_(pa.float64()), side="left") == [[0, 0.5, INF], [0, 0, INF]]


def test_fingerprints_tell_apart_what_fills_up_from_elements() -> None:
    how = INPUT.validate_python({"kind": "sequence", "length": 3, "side": "right", "longer": "last", "null": "empty"})

    def prints(values: list[Any], element: pa.DataType | None = None) -> list[int]:
        rows = batch(values, pa.list_(element or pa.int64()))
        return row_fingerprints(rows, to_matrix(rows, ["x"], {"x": how}), ["x"], {"x": how}).tolist()

    different = [[], None, [0], [0, 0], [0, None], [1], [2, 3, 4], [1, 2, 3, 4], [0, 1, 2, 3, 4]]
    assert len(set(prints(different))) == len(different)
    assert prints(different) == prints(different, pa.float32()), "whatever the type"
    assert prints([different[5]]) == prints(different)[5:6], "whatever the batch"


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({}, "`side` must say where the training code filled up a shorter list: left or right"),
        ({"side": "middle"}, "left"),
        ({"side": "left", "min": 2, "max": 1}, "min = 2 is above max = 1"),
        ({"side": "left", "pad": 0.5, "encode": "int64"}, "pad = 0.5 is no integer"),
        ({"side": "left", "pad": 2**25, "encode": "int64"}, "is no integer of up to 24 bits"),
        ({"side": "left", "longer": "middle"}, "quarantine"),
    ],
)
def test_declaration_that_cannot_be_is_refused(how: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        INPUT.validate_python({"kind": "sequence", "length": 3, **how})


# Models

ITEMS, LENGTH = 30, 6
SIGNATURE = {
    "inputs": {
        "history": {"kind": "sequence", "length": LENGTH, "side": "left", "longer": "last"}
        | {"encode": "int64", "min": 0, "max": ITEMS},
        "prices": {"kind": "sequence", "length": 4, "side": "right", "null": "empty"},
    },
    "tensors": {"items": ["history"], "numbers": ["age", "prices"]},
}


class Recurrent(nn.Module):
    """An LSTM over the items that somebody has looked at, 0 for none, beside numbers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.items = nn.Embedding(ITEMS + 1, 8, padding_idx=0)
        self.lstm, self.head = nn.LSTM(8, 8, batch_first=True), nn.Linear(8 + 5, 2)

    def forward(self, items: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        states, _ = self.lstm(self.items(items))
        found: torch.Tensor = self.head(torch.cat([states[:, -1], numbers], dim=1))
        return found


class Attentive(Recurrent):
    """Attention over the same items; what fills them up is masked."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, items: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        x, there = self.items(items), (items > 0).unsqueeze(2).float()
        attended, _ = self.attention(x, x, x, need_weights=False)
        mean = (attended * there).sum(1) / there.sum(1).clamp(min=1.0)
        found: torch.Tensor = self.head(torch.cat([mean, numbers], dim=1))
        return found


def rows(count: int = 60) -> pa.Table:
    rng = np.random.default_rng(6)
    history = [rng.integers(1, ITEMS, rng.integers(0, 10), endpoint=True).tolist() for _ in range(count)]
    prices = [None if index % 7 == 0 else rng.normal(size=index % 5).tolist() for index in range(count)]
    return pa.table(
        {
            "id": [f"u{index}" for index in range(count)],
            "age": rng.normal(size=count),
            "history": pa.array(history, pa.list_(pa.int32())),
            "prices": pa.array(prices, pa.list_(pa.float64())),
        }
    )


def own(model: nn.Module, table: pa.Table) -> Any:
    """Scores rows as independent training code would."""
    items = [([0] * LENGTH + row)[-LENGTH:] for row in table["history"].to_pylist()]
    prices = [((row or []) + [0.0] * 4)[:4] for row in table["prices"].to_pylist()]
    numbers = np.column_stack([table["age"].to_numpy(), prices]).astype(np.float32)
    with torch.inference_mode():
        return torch.softmax(model.eval()(torch.tensor(items), torch.tensor(numbers)), 1)[:, 1].numpy()


def registry_with(workspace: Workspace, model: nn.Module, signature: dict[str, Any] = SIGNATURE) -> Registry:
    path, count = workspace.root / "m.pt2", Dim("rows")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about its own code
        example = (torch.ones(2, LENGTH, dtype=torch.int64), torch.zeros(2, 5))
        torch.export.save(torch.export.export(model.eval(), example, dynamic_shapes=({0: count}, {0: count})), path)
    registry = Registry(Path(workspace.settings.models))
    card = Card(signature=json.loads(json.dumps(signature)))
    registry.register(
        path, name="toy", version="v2", alias="production", features=("age", "history", "prices"), card=card
    )
    return registry


@pytest.mark.parametrize("model", [Recurrent, Attentive])
def test_network_over_sequences_scores_as_torch_does(workspace: Workspace, model: type[nn.Module]) -> None:
    registry_with(workspace, model())
    table = rows()
    scored = Scorer.load("toy", models=workspace.settings.models).score(table)
    np.testing.assert_allclose(scored.column("prob_class_1").to_numpy(), own(model(), table), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_run_over_sequences_scores_rejects_and_explains(workspace: Workspace) -> None:
    registry_with(workspace, Recurrent())
    workspace.job(features="")
    good = rows()
    bad = pa.table(
        {
            "id": ["unknown", "gap", "null", "long"],
            "age": [0.0] * 4,
            "history": pa.array([[ITEMS + 1], [1, None], None, [1]], pa.list_(pa.int32())),
            "prices": pa.array([[], [], [], [1.0] * 5], pa.list_(pa.float64())),
        }
    )
    workspace.day(pa.concat_tables([good, bad]))
    record = workspace.complete()
    assert record.ledger is not None
    assert (record.ledger.scored.rows, record.ledger.quarantined.rows) == (60, 4)
    (path,) = (workspace.lake / "quarantine").rglob("*.parquet")
    reasons = {row["id"]: row["reasons"] for row in pq.read_table(path).to_pylist()}
    said = ["unknown:history", "unknown:history", "null:history", "unknown:prices"]
    assert reasons == {name: [reason] for name, reason in zip(("unknown", "gap", "null", "long"), said, strict=True)}
    stored = {row["id"]: row["prob_class_1"] for row in workspace.stored("SELECT id, prob_class_1 FROM predictions")}
    np.testing.assert_allclose([stored[name] for name in good["id"].to_pylist()], own(Recurrent(), good), atol=1e-6)
    history = good["history"].to_pylist()
    history[3] = [*history[3], 1]
    workspace.day(good.set_column(2, "history", pa.array(history, pa.list_(pa.int32()))))
    again = workspace.complete()
    assert again.ledger is not None
    assert (again.ledger.scored.rows, again.ledger.unchanged.rows) == (1, 59)
    answer = explain(workspace.context(), "u3", DAY, replay=True)
    (current, _) = answer.predictions
    assert current.replay is not None
    assert (current.replay.reproduced, current.replay.same_input) == (True, True)


def test_column_that_is_no_list_is_refused(workspace: Workspace) -> None:
    registry_with(workspace, Recurrent())
    scorer = Scorer.load("toy", models=workspace.settings.models)
    with pytest.raises(SchemaMismatch, match="as the model's signature declares") as caught:
        scorer.score(rows().set_column(2, "history", pa.array([1] * 60)))
    assert "history a sequence" in str(caught.value.expected)


def test_limits_beyond_the_embedding_are_noticed_at_registration(workspace: Workspace) -> None:
    wide = json.loads(json.dumps(SIGNATURE))
    wide["inputs"]["history"]["max"] = 10 * ITEMS
    with pytest.raises(ModelError, match="looks up an index that it does not have"):
        registry_with(workspace, Recurrent(), wide)
