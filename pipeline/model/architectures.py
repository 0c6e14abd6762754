"""Architectures that a file of bare weights may name, such as `mlp:tanh`; each has a function in BUILDERS."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from pipeline.errors import ModelRefused, nearest
from pipeline.model.checkpoint import ACTIVATIONS, layers_of, stack


def is_known(architecture: str) -> bool:
    name, _, variant = architecture.partition(":")
    return name == "mlp" and variant in ACTIVATIONS


def activation_of(architecture: str, where: object) -> str:
    """Returns the activation of `mlp:<activation>`. Raises ModelRefused for an unknown architecture."""
    if not is_known(architecture):
        known = [f"mlp:{activation}" for activation in ACTIVATIONS]
        raise ModelRefused(
            f"no architecture is called {architecture!r}{nearest(architecture, known)}",
            where=where,
            expected=", ".join(known),
            next_step="export other architectures with torch.export, which needs no model code: see models/README.md",
        )
    return architecture.partition(":")[2]


def _mlp(state: Mapping[str, torch.Tensor], architecture: str, where: object) -> nn.Module:
    """Builds linear layers, in the order of `state`, with the activation between them."""
    return stack(layers_of(state, where), activation_of(architecture, where))


BUILDERS: dict[str, Callable[[Mapping[str, torch.Tensor], str, object], nn.Module]] = {"mlp": _mlp}


def from_weights(state: Mapping[str, torch.Tensor], architecture: str, where: object) -> nn.Module:
    """Returns the module: (rows, features) to (rows, outputs). Raises ModelRefused if the weights do not match it."""
    builder = BUILDERS.get(architecture.partition(":")[0])
    if builder is None:
        activation_of(architecture, where)
    assert builder is not None
    return builder(state, architecture, where)
