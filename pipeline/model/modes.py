"""How a model is run, other than as it is: in bfloat16, or compiled."""

from __future__ import annotations

import torch
from torch import nn

from pipeline.errors import ModelError
from pipeline.job_tables import Precision


def prepared(module: nn.Module, columns: int, device: str, precision: Precision, *, compiled: bool) -> nn.Module:
    """Returns a module that runs another one as asked, and has run once: compiling takes seconds, up to a minute.

    Raises ModelError if the model cannot be run so, or not compiled on this machine.
    """
    if precision == "bfloat16":
        module = InBfloat16(module, torch.device(device).type)
    if compiled:
        module = Compiled(module)
    if precision != "float32" or compiled:
        _try(module, columns, device, precision, compiled=compiled)
    return module


class InBfloat16(nn.Module):
    """Multiplies matrices in bfloat16, and what needs it in float32, as torch.autocast says. Gives float32."""

    def __init__(self, inner: nn.Module, device_type: str) -> None:
        super().__init__()
        self.inner, self.device_type = inner, device_type

    def forward(self, matrix: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device_type, torch.bfloat16):
            raw: torch.Tensor = self.inner(matrix)
        return raw.float()


class Compiled(nn.Module):
    """Compiled once for any number of rows. A single row goes through twice: for it torch would compile anew."""

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
    except (RuntimeError, TypeError, ValueError) as error:  # of an operation, torch's compiler, or the one of C++
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        install = "install a C++ compiler such as g++, or " if compiled else ""
        raise ModelError(
            f"the model cannot be run {' and '.join(ways)}",
            where=device,
            got=first[:300],
            next_step=f"{install}set {' and '.join(keys)} in job.toml",
        ) from error
