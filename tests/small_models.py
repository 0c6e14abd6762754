"""A small model of each task for the job `toy`: linear over the features `a` and `b`, so that tests can compute it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from pipeline.model.card import Card
from pipeline.model.registry import Registry
from tests.workspace import Workspace

NAMES = ["arts", "news", "sport"]
ITEMS = [f"sku-{number}" for number in range(20)]
SIGNATURES: dict[str, dict[str, Any]] = {
    "classification": {"classes": ["no", "yes"], "outputs": "logits"},
    "multi-class": {"classes": NAMES, "outputs": "logits"},
    "regression": {"task": "regression"},
    "quantiles": {"task": "regression", "quantiles": [0.1, 0.5, 0.9]},
    "variance": {"task": "regression", "variance": "log_variance"},
    "multilabel": {"task": "multilabel", "classes": NAMES, "outputs": "logits"},
    "ranking": {"task": "ranking", "classes": ITEMS, "top": 10},
}
OUTPUTS = {"regression": 1, "quantiles": 3, "variance": 2, "ranking": len(ITEMS), "classification": 2}


def register(workspace: Workspace, task: str, version: str = "v1", seed: int = 0, **signature: Any) -> None:
    """Registers a version with weights drawn from `seed`; the first one is `production`."""
    rng, outputs = np.random.default_rng(seed), OUTPUTS.get(task, 3)
    weight = rng.normal(size=(outputs, 2)).astype(np.float32)
    bias = np.zeros(outputs, np.float32)
    if task == "quantiles":
        weight, bias = weight[[1, 1, 1]], np.array([-1, 0, 1], np.float32)
    path = workspace.root / f"{task}-{version}.safetensors"
    state = {"0.weight": torch.from_numpy(np.ascontiguousarray(weight)), "0.bias": torch.from_numpy(bias)}
    save_file(state, path, metadata={"architecture": "mlp:relu"})
    registry = Registry(workspace.root / "models")
    alias = "production" if version == "v1" else None
    card = Card(signature={**SIGNATURES[task], **signature})
    registry.register(path, name="toy", version=version, features=["a", "b"], alias=alias, card=card)


def truths(task: str, rows: int, seed: int = 1) -> list[Any]:
    """Returns a label for each row, drawn from `seed`."""
    rng = np.random.default_rng(seed)
    match task:
        case "classification" | "multi-class":
            return rng.choice(SIGNATURES[task]["classes"], rows).tolist()
        case "multilabel":
            return [[name for name in NAMES if rng.random() < 0.4] for _ in range(rows)]
        case "ranking":
            return [rng.choice(ITEMS, rng.integers(0, 5), replace=False).tolist() for _ in range(rows)]
        case _:
            return rng.normal(size=rows).tolist()


def member(lists: list[list[str]], names: list[str]) -> NDArray[np.int64]:
    """Returns 1 where a list has a name: (rows, names)."""
    return np.array([[int(name in each) for name in names] for each in lists])
