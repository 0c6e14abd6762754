"""Runs a sequence of linear layers and activations by one call per layer, without the code that torch runs around it.

Python's lock is held between the calls, and that time is lost to all other workers: of a small network on small slices
it was a tenth of the time. The results are those of the sequence, bit for bit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from itertools import cycle

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
        buffers = cycle((Buffer(), Buffer()))  # the one that a layer reads, and the one that it fills
        for place in _hidden(sequence):
            self._steps[place] = _into(next(buffers), sequence[place])

    def forward(self, matrix: torch.Tensor) -> torch.Tensor:
        for step in self._steps:
            matrix = step(matrix)
        return matrix


class Buffer(threading.local):
    """Memory for a layer's result, which each thread keeps from batch to batch.

    The C library would not give the memory of one batch to the next: a result begins at a multiple of 64 bytes, and
    space of just its size has no room to choose one. A worker held 240 MB instead of 30 (200 columns, glibc 2.36).
    """

    def __init__(self) -> None:
        self._values = torch.empty(0)

    def of(self, rows: int, columns: int) -> torch.Tensor:
        """Returns float32 (rows, columns), not filled, that is overwritten after the next call."""
        if len(self._values) < rows * columns:
            self._values = torch.empty(rows * columns)
        return self._values[: rows * columns].view(rows, columns)


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


def _hidden(sequence: nn.Sequential) -> list[int]:
    """Returns the places of linear layers on a CPU whose results nothing but the next linear layer reads.

    Activations in place may lie between the two.
    """
    found: list[int] = []
    last: int | None = None
    for place, layer in enumerate(sequence):
        if type(layer) is nn.Linear:
            if last is not None:
                found.append(last)
            plain = layer.weight.dtype == torch.float32 and layer.weight.device.type == "cpu"
            last = place if plain and layer.bias is not None else None
        elif type(layer) not in IN_PLACE:
            last = None
    return found


def _into(buffer: Buffer, layer: nn.Module) -> Step:
    """Returns the step of a linear layer whose result is written into a buffer."""
    assert type(layer) is nn.Linear
    bias, weights, columns = layer.bias, layer.weight.t(), layer.out_features

    def step(matrix: torch.Tensor) -> torch.Tensor:
        return torch.addmm(bias, matrix, weights, out=buffer.of(len(matrix), columns))

    return step
