"""Faster ways to run a model, in bfloat16 or compiled, and how far a model's precision rounds its outputs."""

from __future__ import annotations

import torch
from torch import nn

from pipeline.errors import ModelError
from pipeline.job.config import Precision
from pipeline.model.layers import flattened

HALVES = frozenset({torch.float16, torch.bfloat16})
ROUNDING, HALF_ROUNDING = 1e-5, 2e-2
"""Largest rounding error of a probability, and of the sum of a row's probabilities: in float32, and in 16 bits."""


def computes_in_half(module: nn.Module) -> bool:
    """Returns whether a model has weights in float16 or bfloat16, or is a program that casts to them."""
    casts = any(getattr(part, "casts_to_half", False) for part in module.modules())
    return casts or any(parameter.dtype in HALVES for parameter in module.parameters())


def prepared(module: nn.Module, columns: int, device: str, precision: Precision, *, compiled: bool) -> nn.Module:
    """Wraps a module for the given precision and compilation, and runs it once; compiling takes up to a minute.

    As it is, a sequence of linear layers is run by fewer calls.

    Raises ModelError if the model cannot be run in this precision, or cannot be compiled on this machine.
    """
    if precision == "float32" and not compiled:
        return flattened(module)
    if precision == "bfloat16":
        module = InBfloat16(module, torch.device(device).type)
    if compiled:
        module = Compiled(module)
    _try(module, columns, device, precision, compiled=compiled)
    return module


class InBfloat16(nn.Module):
    """Runs a module under torch.autocast: bfloat16 for matrix products, float32 where needed. Returns float32."""

    def __init__(self, inner: nn.Module, device_type: str) -> None:
        super().__init__()
        self.inner, self.device_type = inner, device_type

    def forward(self, matrix: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device_type, torch.bfloat16):
            raw: torch.Tensor = self.inner(matrix)
        return raw.float()


class Compiled(nn.Module):
    """Compiles a module once for any number of rows. A single row is duplicated, or torch would compile again."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.compiled = torch.compile(inner, dynamic=True)

    def forward(self, matrix: torch.Tensor) -> torch.Tensor:
        if len(matrix) == 1:
            twice: torch.Tensor = self.compiled(matrix.expand(2, -1).contiguous())
            return twice[:1]
        raw: torch.Tensor = self.compiled(matrix)
        return raw


def _try(module: nn.Module, columns: int, device: str, precision: Precision, *, compiled: bool) -> None:
    ways, keys = ["in bfloat16"], ['precision = "float32"']
    if precision == "float32":
        ways, keys = [], []
    if compiled:
        ways, keys = [*ways, "compiled"], [*keys, "compile = false"]
    try:
        with torch.inference_mode():
            module(torch.zeros(2, columns, device=device))
    except torch.cuda.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError) as error:  # from an operation, torch's compiler or the C++ compiler
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        install = "install a C++ compiler such as g++, or " if compiled else ""
        raise ModelError(
            f"the model cannot be run {' and '.join(ways)}",
            where=device,
            got=first[:300],
            next_step=f"{install}set {' and '.join(keys)} in job.toml",
        ) from error
