"""Two versions of a model, and a day on which they differ."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import torch

from pipeline.compare.findings import Comparison, compare
from pipeline.model.registry import Registry
from tests.workspace import Workspace, table

ROWS = 400


def add_versions(workspace: Workspace) -> None:
    """Adds two versions that decide differently for some rows, and a carried column whose third value matters."""
    workspace.job(reads='carry = ["country"]')
    network(workspace, "1", (1.0, 0.0), 0.0)
    network(workspace, "2", (1.0, 0.25), 0.1)
    country = pa.array(["UK" if row % 3 else "FR" for row in range(ROWS)])
    workspace.day(table(ROWS).append_column("country", country))


def network(workspace: Workspace, version: str, weights: tuple[float, float], bias: float) -> None:
    """Registers a model whose logit is linear; `production` stays with the first of them."""
    path = workspace.root / f"linear-{version}.pt"
    state = {"fc.weight": torch.tensor([weights]) * 3, "fc.bias": torch.tensor([bias])}
    torch.save({"model_state_dict": state, "input_dim": 2, "output_dim": 1}, path)
    registry = Registry(workspace.root / "models")
    alias = "production" if version == "1" else None
    registry.register(path, name="toy", version=version, features=("a", "b"), alias=alias)


def both(workspace: Workspace, **options: Any) -> Comparison:
    return compare(workspace.context(), "1", "2", **options)
