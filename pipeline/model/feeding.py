"""Passes the columns of the matrix to the inputs of a model, which may be several tensors of float32 and int64.

Each input takes the next columns of its type, in the order of the features.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from pipeline.model.inputs import is_int64
from pipeline.model.integers import joined

if TYPE_CHECKING:
    from pipeline.model.manifest import Signature


@dataclass(frozen=True)
class Port:
    """One tensor that a model takes."""

    int64: bool
    """Its type: int64, otherwise float32."""
    columns: int
    flat: bool = False
    """Whether its shape is (rows,), otherwise (rows, columns)."""


class Ported(nn.Module):
    """A model that takes one tensor for each of `ports`, and returns (rows, outputs)."""

    ports: tuple[Port, ...]

    @property
    def inputs(self) -> int:
        """Number of float32 columns that it takes."""
        return sum(port.columns for port in self.ports if not port.int64)

    @property
    def int64(self) -> int:
        """Number of int64 values that it takes per row."""
        return sum(port.columns for port in self.ports if port.int64)


class Fed(nn.Module):
    """A model of several inputs, or of int64 inputs: takes the matrix, and passes each input its columns."""

    def __init__(self, inner: nn.Module, signature: Signature, ports: Sequence[Port]) -> None:
        super().__init__()
        self.inner, self._ports = inner, tuple(ports)
        self.most_rows: int = getattr(inner, "most_rows", sys.maxsize)
        self._floats: list[int] = []
        self._int64: list[range] = []
        start = 0
        for name in signature.features:
            how = signature.inputs.get(name)
            columns = range(start, start + (1 if how is None else how.width))
            if is_int64(how):
                self._int64.append(columns)
            else:
                self._floats += columns
            start = columns.stop

    def forward(self, matrix: torch.Tensor) -> torch.Tensor:
        floats = matrix if len(self._floats) == matrix.shape[1] else matrix[:, self._floats]
        int64 = [joined([matrix[:, column] for column in columns]) for columns in self._int64]
        tensors, taken = [], {True: 0, False: 0}
        for port in self._ports:
            first, last = taken[port.int64], taken[port.int64] + port.columns
            values = torch.stack(int64[first:last], dim=1) if port.int64 else floats[:, first:last].contiguous()
            tensors.append(values[:, 0] if port.flat else values)
            taken[port.int64] = last
        found: torch.Tensor = self.inner(*tensors)
        return found


def fed(module: nn.Module, signature: Signature) -> nn.Module:
    """Returns a module that takes the matrix: float32 (rows, columns). A model of one float32 input does already."""
    ports = getattr(module, "ports", None)
    if ports is None:  # a pickled module: takes the numbers, then the int64
        floats = sum(1 for name in signature.columns if not is_int64(signature.inputs.get(name)))
        ports = [Port(int64, count) for int64, count in ((False, floats), (True, len(signature.int64))) if count]
    if len(ports) == 1 and not ports[0].int64 and not ports[0].flat:
        return module
    return Fed(module, signature, ports)
