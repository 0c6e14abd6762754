"""A loaded model: a matrix in, the columns of predictions out. This is the hot path."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.errors import ModelMismatch, UsageError
from pipeline.job_tables import Precision
from pipeline.model.cuda import Busy, Lanes
from pipeline.model.heads import Results, head_of
from pipeline.model.limits import Limits
from pipeline.model.manifest import Signature
from pipeline.model.modes import prepared
from pipeline.model.outputs import output_schema

SLICE_ROWS = 8192
"""Rows that go through a model at a time where nobody says, or has measured, otherwise."""


class Predictor:
    """May be called from several threads at once: it sets nothing global, and each call has its own result."""

    def __init__(
        self,
        module: nn.Module,
        signature: Signature,
        device: str = "auto",
        *,
        precision: Precision = "float32",
        compiled: bool = False,
    ) -> None:
        """`module` takes float32 (rows, columns) and gives (rows, outputs), of two classes perhaps only the second.

        A classifier and a multi-label model give logits, a regression values, a ranking scores of all items.
        Raises UsageError if the device is not there, ModelError if the model cannot be run in this precision, or not
        compiled.
        """
        self.signature = signature
        self.device = choose_device(device)
        self.precision, self.compiled = precision, compiled
        self._as_it_is = module.eval().requires_grad_(requires_grad=False).to(self.device)
        self.module = prepared(self._as_it_is, signature.width, self.device, precision, compiled=compiled)
        self._schema = output_schema(signature)
        self._head = head_of(signature)
        limit: int = getattr(module, "most_rows", sys.maxsize)
        self._limits = Limits(min(limit, self._head.most_rows), self.device)
        self._lanes = Lanes(self.device, self._compute, self._limits) if self.device != "cpu" else None

    def output_schema(self) -> pa.Schema:
        return self._schema

    def in_float32(self) -> Predictor:
        """Returns the same model as it is, of which the precision and compiling are nothing but a faster form."""
        return Predictor(self._as_it_is, self.signature, self.device)

    @property
    def most_rows(self) -> int:
        """How many rows go through the model at a time at most, as the task and the model's file say."""
        return self._limits.most_rows

    @property
    def busy(self) -> Busy | None:
        """When the device was at work, if it is not the CPU."""
        return None if self._lanes is None else self._lanes.busy

    def predict(self, matrix: NDArray[np.float32], batch_rows: int) -> dict[str, NDArray[Any]]:
        """Returns the columns of `output_schema`, each (rows,), of a ranking (rows, top); text as objects.

        `matrix` is float32 (rows, columns) as `features.to_matrix` makes it; `batch_rows` go through the model at a
        time, or fewer where memory is short. Raises ModelMismatch for another matrix, ModelError if no single row fits.
        """
        return dict(zip(self._schema.names, self._head.numpy(self._score(matrix, batch_rows)), strict=True))

    def predict_arrow(self, matrix: NDArray[np.float32], batch_rows: int) -> pa.RecordBatch:
        """Returns what `predict` does, as one batch of `output_schema`: for labels of text ten times as fast."""
        return pa.record_batch(self._head.arrow(self._score(matrix, batch_rows)), schema=self._schema)

    def _score(self, matrix: NDArray[np.float32], batch_rows: int) -> Results:
        self._check(matrix, batch_rows)
        results = self._head.empty(len(matrix))
        tensors = [torch.from_numpy(result) for result in results]
        self._fill(tensors, torch.from_numpy(np.require(matrix, requirements=["W"])), batch_rows)  # or torch warns
        return results

    def _fill(self, results: list[torch.Tensor], matrix: torch.Tensor, batch_rows: int) -> None:
        """Scores slice by slice into the results; a slice too large for the memory is halved and tried again."""
        start = 0
        with torch.inference_mode():
            if self._lanes is not None:
                self._lanes.fill(results, matrix, batch_rows)
                return
            while start < len(matrix):
                part = matrix[start : start + min(batch_rows, self._limits.most_rows)]
                scored = self._try(part)
                if scored is None:
                    self._limits.halve(len(part))
                    continue
                for result, values in zip(results, scored, strict=True):
                    result[..., start : start + len(part)] = values
                start += len(part)

    def _try(self, part: torch.Tensor) -> tuple[torch.Tensor, ...] | None:
        """Returns what the head makes of a part, the rows as last axis; None if memory ran out."""
        try:
            return self._compute(part.clone())  # (rows, columns); a module may write into what it is given
        except torch.cuda.OutOfMemoryError as error:
            self._limits.check_fits(len(part), error)
            return None  # tried again outside: the error holds on to the tensors of the failed pass

    def _compute(self, own: torch.Tensor) -> tuple[torch.Tensor, ...]:
        raw = self.module(own)
        self._check_outputs(raw, len(own))
        return self._head.compute(raw)

    def _check(self, matrix: NDArray[np.float32], batch_rows: int) -> None:
        if batch_rows < 1:
            raise ValueError(f"batch_rows must be 1 or more, not {batch_rows}")
        columns = self.signature.width
        if matrix.ndim != 2 or matrix.shape[1] != columns or matrix.dtype != np.float32:
            raise ModelMismatch(
                "the matrix is not one that the model takes",
                expected=f"float32 (rows, {columns})",
                got=f"{matrix.dtype} {matrix.shape}",
            )

    def _check_outputs(self, raw: torch.Tensor, rows: int) -> None:
        binary = self.signature.task == "classification" and self.signature.outputs == 2
        if raw.ndim != 2 or len(raw) != rows or raw.shape[1] not in {self.signature.outputs, 1 if binary else -1}:
            raise ModelMismatch(
                "the model does not give what its signature says",
                expected=f"({rows}, {self.signature.outputs})",
                got=str(tuple(raw.shape)),
            )


def choose_device(name: str) -> str:
    """Returns the device to use; `auto` is CUDA where there is one. Raises UsageError for one that is not there."""
    cuda = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if name == "auto":
        return "cuda" if cuda else "cpu"
    available = ["cpu", *(["cuda", *cuda] if cuda else [])]
    if name not in available:
        raise UsageError(
            f"device {name!r} is not available on this machine",
            expected=", ".join(["auto", *available]),
            got=repr(name),
            next_step="set LAKESCORE_DEVICE, or device in job.toml, to one of these",
        )
    return name
