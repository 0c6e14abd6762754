"""Runs a sequence of linear layers and activations by one call per layer, without the code that torch runs around it.

Python's lock is held between the calls, and that time is lost to all other workers: of a small network on small slices
it was a tenth of the time. The results are those of the sequence, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from pipeline.model import ending

Step = Callable[[torch.Tensor], torch.Tensor]

IN_PLACE: dict[type[nn.Module], Step] = {nn.ReLU: torch.relu_, nn.Tanh: torch.tanh_, nn.Sigmoid: torch.sigmoid_}
"""Activations that may overwrite what a linear layer has returned, since nothing else reads it."""


class Layers(nn.Module):
    """The layers of a sequence, which it holds; the first one is linear, so the input is only read."""

    def __init__(self, sequence: nn.Sequential) -> None:
        super().__init__()
        self.sequence = sequence
        self.ending = ending.of_module(sequence)
        self._steps = [_step(layer, before) for before, layer in zip([None, *sequence], sequence, strict=False)]

    def forward(self, matrix: torch.Tensor) -> torch.Tensor:
        for step in self._steps:
            matrix = step(matrix)
        return matrix


def flattened(module: nn.Module) -> nn.Module:
    """Returns a sequence that begins with a linear layer as `Layers`; any other module as it is.

    The module must be on its device: its weights are taken as they are now.
    """
    if type(module) is not nn.Sequential or not len(module) or _has_hooks(module):
        return module
    return Layers(module) if type(module[0]) is nn.Linear else module


def _step(layer: nn.Module, before: nn.Module | None) -> Step:
    if type(layer) is nn.Linear and layer.bias is not None:
        return partial(torch.addmm, layer.bias, mat2=layer.weight.t())
    if type(before) is nn.Linear and type(layer) in IN_PLACE:
        return IN_PLACE[type(layer)]
    return layer


def _has_hooks(module: nn.Module) -> bool:
    """Tells whether code is run before or after a layer, such as that of a parametrization."""
    names = ("_forward_hooks", "_forward_pre_hooks")
    return any(getattr(part, name) for part in module.modules() for name in names)
