"""One model per task, for tests that apply to every task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.model.manifest import Signature

FEATURES = 20


@dataclass(frozen=True)
class Task:
    name: str
    outputs: int
    entries: dict[str, Any]

    @property
    def signature(self) -> Signature:
        return Signature.model_validate({"features": tuple(f"f{index}" for index in range(FEATURES)), **self.entries})

    def network(self) -> nn.Sequential:
        with torch.random.fork_rng():
            torch.manual_seed(11)
            middle = [nn.Linear(FEATURES, 64), nn.ReLU(), nn.Linear(64, 64), nn.Tanh()]
            return nn.Sequential(*middle, nn.Linear(64, self.outputs))


TASKS = (
    Task("binary, one output", 1, {"classes": (0, 1)}),
    Task("binary, two outputs", 2, {"classes": ("stays", "leaves")}),
    Task("multi-class", 7, {"classes": tuple(range(7))}),
    Task("regression", 1, {"task": "regression"}),
    Task("regression with variance", 2, {"task": "regression", "variance": "log_variance"}),
    Task("regression with quantiles", 3, {"task": "regression", "quantiles": (0.1, 0.5, 0.9)}),
    Task("multi-label", 5, {"task": "multilabel", "classes": tuple("abcde")}),
    Task("ranking", 500, {"task": "ranking", "classes": tuple(range(500)), "top": 10}),
)


def matrix(rows: int) -> NDArray[np.float32]:
    return np.random.default_rng(8).normal(0, 1, (rows, FEATURES)).astype(np.float32)


def furthest(found: dict[str, NDArray[Any]], expected: dict[str, NDArray[Any]]) -> float:
    """Returns the largest difference of any number, relative to the expected value where that is above one."""
    assert found.keys() == expected.keys()
    numbers = [name for name, values in expected.items() if values.dtype == np.float32]
    assert numbers
    parts = [np.abs(found[name] - expected[name]) / np.maximum(1, np.abs(expected[name])) for name in numbers]
    return float(max(np.max(part) for part in parts))
