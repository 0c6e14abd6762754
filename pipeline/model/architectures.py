"""Architectures that a file of bare weights may name, such as `mlp:tanh`: each a function and a line in BUILDERS."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from pipeline.errors import ModelRefused, nearest
from pipeline.model.checkpoint import ACTIVATIONS, layers_of, stack


def activation_of(architecture: str, where: object) -> str:
    """Returns the activation of `mlp:<activation>`. Raises ModelRefused for an architecture that is not known."""
    name, _, variant = architecture.partition(":")
    if name != "mlp" or variant not in ACTIVATIONS:
        known = [f"mlp:{activation}" for activation in ACTIVATIONS]
        raise ModelRefused(
            f"no architecture is called {architecture!r}{nearest(architecture, known)}",
            where=where,
            expected=", ".join(known),
            next_step="export another architecture with torch.export, which needs no code of it: see models/README.md",
        )
    return variant


def _mlp(state: Mapping[str, torch.Tensor], architecture: str, where: object) -> nn.Module:
    """Linear layers, in the order of their names where those end in numbers, with one activation between."""
    return stack(layers_of(state, where), activation_of(architecture, where))


BUILDERS: dict[str, Callable[[Mapping[str, torch.Tensor], str, object], nn.Module]] = {"mlp": _mlp}


def from_weights(state: Mapping[str, torch.Tensor], architecture: str, where: object) -> nn.Module:
    """Returns the module: (rows, features) to (rows, outputs). Raises ModelRefused for weights of another one."""
    builder = BUILDERS.get(architecture.partition(":")[0])
    if builder is None:
        activation_of(architecture, where)
    assert builder is not None
    return builder(state, architecture, where)
