"""Passes the columns of the matrix to the inputs of a model, which may be several tensors of float32 and int64.

Each input takes the features that the signature names for it; else the next ones of its type, in their order.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from pipeline.model.inputs import is_int64, pieces_of
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
    name: str = ""
    """Its name in the model's graph."""

    def __str__(self) -> str:
        shape = "(rows,)" if self.flat else f"(rows, {self.columns})"
        return f"{self.name} {'int64' if self.int64 else 'float32'} {shape}".strip()


class Ported(nn.Module):
    """A model that takes one tensor for each of `ports`, and returns (rows, outputs)."""

    ports: tuple[Port, ...]
    output: str | None = None
    """Name of the output that is returned; None if there is only one."""

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
        self._values = _values_of(signature, ports)

    def forward(self, matrix: torch.Tensor) -> torch.Tensor:
        tensors = []
        for port, values in zip(self._ports, self._values, strict=True):
            if port.int64:
                joint = _integers(matrix, values)
            else:
                joint = _taken(matrix, [column for columns in values for column in columns])
            tensors.append(joint[:, 0] if port.flat else joint)
        found: torch.Tensor = self.inner(*tensors)
        return found


def _integers(matrix: torch.Tensor, values: list[range]) -> torch.Tensor:
    """Returns int64 (rows, values) from the columns that hold each value."""
    if len({len(columns) for columns in values}) > 1:
        return torch.stack([joined([matrix[:, column] for column in columns]) for columns in values], dim=1)
    pieces = _taken(matrix, [column for columns in values for column in columns])
    return joined(pieces.reshape(len(matrix), len(values), len(values[0])).unbind(2))


def _taken(matrix: torch.Tensor, columns: list[int]) -> torch.Tensor:
    """Returns some columns as a tensor of its own, contiguous; without a copy by index if they lie side by side."""
    first = columns[0]
    if columns == list(range(first, first + len(columns))):
        return matrix[:, first : first + len(columns)].contiguous()
    return matrix[:, columns]


def _values_of(signature: Signature, ports: Sequence[Port]) -> list[list[range]]:
    """Returns the values that each input takes, each as the columns of the matrix that hold it."""
    values: dict[str, list[range]] = {}
    start = 0
    for name in signature.features:
        how = signature.inputs.get(name)
        width, pieces = (1, 1) if how is None else (how.width, pieces_of(how))
        values[name] = [range(first, first + pieces) for first in range(start, start + width, pieces)]
        start += width
    if signature.tensors:
        return [[each for name in signature.tensors[port.name] for each in values[name]] for port in ports]
    left: dict[bool, list[range]] = {True: [], False: []}
    for name in signature.features:
        left[is_int64(signature.inputs.get(name))] += values[name]
    found = []
    for port in ports:
        found.append(left[port.int64][: port.columns])
        del left[port.int64][: port.columns]
    return found


def fed(module: nn.Module, signature: Signature) -> nn.Module:
    """Returns a module that takes the matrix: float32 (rows, columns). A model of one float32 input does already."""
    ports = getattr(module, "ports", None)
    if ports is None:  # a pickled module: takes the numbers, then the int64
        floats = sum(1 for name in signature.columns if not is_int64(signature.inputs.get(name)))
        ports = [Port(int64, count) for int64, count in ((False, floats), (True, signature.int64_values)) if count]
    if len(ports) == 1 and not ports[0].int64 and not ports[0].flat and not signature.tensors:
        return module
    return Fed(module, signature, ports)
