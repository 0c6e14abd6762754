"""The table of docs/models.md, kind by task, device and attribution: each cell with a small registered model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import onnx
import pytest
import torch
import xgboost
from onnx import helper, numpy_helper
from safetensors.torch import save_file

from pipeline.errors import LakescoreError, ModelRefused
from pipeline.explain import explained_score, shapley
from pipeline.model.card import Card
from pipeline.model.manifest import Manifest
from pipeline.model.registry import Registry
from tests.docs.documented import DOCS

RNG = np.random.default_rng(3)
X = RNG.normal(size=(200, 3)).astype(np.float32)
LABELS = np.column_stack([X[:, 0] > 0, X[:, 1] > X[:, 2]]).astype(np.float32)
TASKS = ("classification", "regression", "multilabel", "ranking")
SIGNATURES: dict[str, dict[str, Any]] = {
    "classification": {"classes": ["no", "yes"]},
    "regression": {},
    "multilabel": {"classes": ["p", "q"]},
    "ranking": {"classes": ["p", "q"], "top": 1},
}


def of_torch(task: str, path: Path) -> dict[str, Any]:
    weight = torch.from_numpy(RNG.normal(size=(1 if task == "regression" else 2, 3)).astype(np.float32))
    save_file({"0.weight": weight}, path, metadata={"architecture": "mlp:relu"})
    return {} if task in ("regression", "ranking") else {"outputs": "logits"}


def of_onnx(task: str, path: Path) -> dict[str, Any]:
    outputs = 1 if task == "regression" else 2
    weights = numpy_helper.from_array(RNG.normal(size=(3, outputs)).astype(np.float32), "w")
    shapes = [helper.make_tensor_value_info(name, 1, ("rows", size)) for name, size in (("x", 3), ("y", outputs))]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", shapes[:1], shapes[1:], [weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return {} if task in ("regression", "ranking") else {"outputs": "logits"}


def of_xgboost(task: str, path: Path) -> dict[str, Any]:
    objective = {"regression": "reg:squarederror", "ranking": "rank:pairwise"}.get(task, "binary:logistic")
    rows = xgboost.DMatrix(X, LABELS if task == "multilabel" else LABELS[:, 0], nthread=1)
    path.write_bytes(xgboost.train({"objective": objective, "nthread": 1}, rows, 3).save_raw("ubj"))
    return {}


def of_lightgbm(task: str, path: Path) -> dict[str, Any]:
    own = task in ("multilabel", "ranking")
    objective: Any = {"classification": "binary", "regression": "regression"}.get(task)

    def both(scores: Any, rows: Any) -> Any:
        chances = 1 / (1 + np.exp(-scores))
        return chances - LABELS, chances * (1 - chances)

    how = {"objective": both if own else objective, "num_class": 2 if own else 1, "num_threads": 1, "verbose": -1}
    booster = lightgbm.train(how, lightgbm.Dataset(X, LABELS[:, 0].copy()), 3)
    path.write_text(booster.model_to_string())
    return {"outputs": "logits"} if task == "multilabel" else {}


MAKE = {"torch": of_torch, "onnx": of_onnx, "xgboost": of_xgboost, "lightgbm": of_lightgbm}
ROWS = {"torch": "program, safetensors, checkpoint", "onnx": "ONNX", "xgboost": "XGBoost", "lightgbm": "LightGBM"}


def cells(kind: str) -> dict[str, str]:
    """Returns what the table says of a kind, by the names of its columns."""
    text = (DOCS / "models.md").read_text("utf-8").partition("## Kinds, tasks, devices, attribution")[2]
    head, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    return dict(zip(head, next(row for row in rows if row[0] == ROWS[kind]), strict=True))


def registered(registry: Registry, kind: str, task: str) -> Manifest:
    path = registry.root.parent / "model.file"
    further = MAKE[kind](task, path)
    card = Card(signature={"task": task, **SIGNATURES[task], **further})
    return registry.register(path, name="m", version="v1", features=["a", "b", "c"], card=card)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "models")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("kind", MAKE)
def test_cell_of_a_kind_and_a_task_is_true(registry: Registry, kind: str, task: str) -> None:
    said = cells(kind)["multi-label" if task == "multilabel" else task]
    if said.startswith("refused"):
        with pytest.raises(ModelRefused):
            registered(registry, kind, task)
        return
    assert re.match("scored|with an objective of your own", said)
    predictor = registry.load(registered(registry, kind, task), "cpu")

    found = predictor.predict(X, 64)
    assert all(np.isfinite(values).all() for values in found.values() if values.dtype.kind == "f")
    assert "attributed" in said
    _, score = explained_score.of_prediction(
        predictor, predictor.signature, {name: values[0] for name, values in found.items()}
    )
    shares = shapley.shares(score, X[0], X[1])
    first, last = score(X[:2])
    assert shares.sum() == pytest.approx(first - last, abs=1e-6)


@pytest.mark.parametrize("kind", MAKE)
def test_cell_of_a_kind_and_cuda_is_true(registry: Registry, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """`auto` takes the CPU for what another library runs, even where there is CUDA; other settings are refused."""
    said, manifest = cells(kind), registered(registry, kind, "regression")
    assert said["CPU"] == "yes"
    if said["CUDA, bfloat16, `compile`"] == "yes":
        assert registry.load(manifest, "cpu", precision="bfloat16").precision == "bfloat16"
        return
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert registry.load(manifest, "auto").device == "cpu"
    settings: list[tuple[str, dict[str, Any]]] = [("cuda", {}), ("auto", {"compiled": True})]
    for device, how in [*settings, ("auto", {"precision": "bfloat16"})]:
        with pytest.raises(LakescoreError, match="run by another library than torch"):
            registry.load(manifest, device, **how)
