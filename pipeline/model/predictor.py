"""A loaded model, which turns a matrix into prediction columns. This is the hot path."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.errors import ModelError, ModelMismatch, UsageError
from pipeline.job.config import Precision
from pipeline.model.cuda import Busy, Lanes, values_at_once
from pipeline.model.heads import Results, head_of
from pipeline.model.layers import Layers
from pipeline.model.library_model import only_on_cpu
from pipeline.model.limits import Limits
from pipeline.model.manifest import Signature
from pipeline.model.outputs import output_schema
from pipeline.model.precision import computes_in_half, prepared

SLICE_ROWS = 8192
"""Default number of rows per forward pass, used if none is configured or measured."""


class Predictor:
    """A model ready to score. Thread-safe: it changes no global state, and each call has its own result."""

    def __init__(
        self,
        module: nn.Module,
        signature: Signature,
        device: str = "auto",
        *,
        precision: Precision = "float32",
        compiled: bool = False,
    ) -> None:
        """`module` takes float32 (rows, columns) and returns (rows, outputs); for two classes, one output is enough.

        A classifier or multi-label model returns what `outputs` of the signature says, a regression values, a ranking
        the scores of all items.
        Raises UsageError for an unavailable device, ModelError if the model cannot be run in this precision or cannot
        be compiled.
        """
        self.signature = signature
        self.device = choose_device(device)
        if only_on_cpu(module):
            self.device = _cpu(device, precision, compiled=compiled)
        self.precision, self.compiled = precision, compiled
        self._as_it_is = module.eval().requires_grad_(requires_grad=False).to(self.device)
        self.module = prepared(self._as_it_is, signature.width, self.device, precision, compiled=compiled)
        first = next(iter(module), None) if isinstance(module, nn.Sequential) and not compiled else None
        self._layout = torch.preserve_format if isinstance(first, nn.Linear) else torch.contiguous_format
        """Layout of the slices that the module is given: a matrix product takes any, a program may not."""
        self._only_reads = isinstance(self.module, Layers)
        """Whether the module leaves its input as it is: then it is given slices of the matrix itself."""
        binary = signature.task == "classification" and signature.output_count == 2
        self._widths = {signature.output_count, 1} if binary else {signature.output_count}
        """Number of outputs that the module may return."""
        self._schema = output_schema(signature)
        self.half = precision == "bfloat16" or computes_in_half(module)
        self.values_at_once = None if self.device == "cpu" else values_at_once(self.device)
        """Largest number of values that a layer may return for a slice on a GPU; None on the CPU."""
        self._head = head_of(signature, half=self.half, scores_at_once=self.values_at_once)
        limit: int = getattr(module, "most_rows", sys.maxsize)
        self._limits = Limits(min(limit, self._head.most_rows), self.device)
        self._lanes = Lanes(self.device, self._compute, self._limits) if self.device != "cpu" else None

    def output_schema(self) -> pa.Schema:
        return self._schema

    def in_float32(self) -> Predictor:
        """Returns the same model in float32, not compiled: the reference for the faster variants."""
        return Predictor(self._as_it_is, self.signature, self.device)

    @property
    def most_rows(self) -> int:
        """Maximum number of rows per forward pass, as limited by the task, the model's file and memory."""
        return self._limits.most_rows

    @property
    def busy(self) -> Busy | None:
        """Busy time of the device; None on the CPU."""
        return None if self._lanes is None else self._lanes.busy

    def predict(self, matrix: NDArray[np.float32], batch_rows: int) -> dict[str, NDArray[Any]]:
        """Returns the columns of `output_schema`, each (rows,), or (rows, top) for a ranking; text as objects.

        `matrix` is float32 (rows, columns) from `matrix.to_matrix`; `batch_rows` is the number of rows per forward
        pass, reduced if memory is short. Raises ModelMismatch if the matrix has another shape or dtype, ModelError if
        not even a single row fits into memory.
        """
        return dict(zip(self._schema.names, self._head.numpy(self._score(matrix, batch_rows)), strict=True))

    def predict_arrow(self, matrix: NDArray[np.float32], batch_rows: int) -> pa.RecordBatch:
        """Returns the same as `predict`, as one batch of `output_schema`; ten times as fast for text labels."""
        return pa.record_batch(self._head.arrow(self._score(matrix, batch_rows)), schema=self._schema)

    def raw(self, matrix: NDArray[np.float32]) -> torch.Tensor:
        """Returns what the model itself outputs, in its own precision, for a few rows: (rows, outputs).

        Raises ModelMismatch if this is not one row per row, with the number of outputs of the signature.
        """
        self._check(matrix, 1)
        parts = []
        with torch.inference_mode():
            step = min(SLICE_ROWS, self.most_rows)
            for start in range(0, len(matrix), step):
                part = torch.from_numpy(matrix[start : start + step].copy()).to(self.device)
                parts.append(self._outputs(part))
        return torch.cat(parts).cpu()

    def _score(self, matrix: NDArray[np.float32], batch_rows: int) -> Results:
        self._check(matrix, batch_rows)
        results = self._head.empty(len(matrix))
        tensors = [torch.from_numpy(result) for result in results]
        self._fill(tensors, torch.from_numpy(np.require(matrix, requirements=["W"])), batch_rows)  # or torch warns
        return results

    def _fill(self, results: list[torch.Tensor], matrix: torch.Tensor, batch_rows: int) -> None:
        """Scores slice by slice into `results`; a slice too large for the memory is halved and retried."""
        start, total = 0, len(matrix)
        with torch.inference_mode():
            if self._lanes is not None:
                self._lanes.fill(results, matrix, batch_rows)
                return
            while (left := total - start) > 0:
                rows = min(left, batch_rows, self._limits.most_rows)
                scored = self._try(matrix.narrow(0, start, rows))
                if scored is None:
                    self._limits.halve(rows)
                    continue
                for result, values in zip(results, scored, strict=True):
                    result.narrow(-1, start, rows).copy_(values)
                start += rows

    def _try(self, part: torch.Tensor) -> tuple[torch.Tensor, ...] | None:
        """Returns the head's results for a part, with rows as the last axis; None if memory ran out."""
        try:
            own = part if self._only_reads else part.clone(memory_format=self._layout)
            return self._compute(own)  # (rows, columns)
        except torch.cuda.OutOfMemoryError as error:
            self._limits.check_fits(len(part), error)
            return None  # the caller retries: here, the error still holds the tensors of the failed pass

    def _compute(self, own: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self._head.compute(self._outputs(own))

    def _outputs(self, own: torch.Tensor) -> torch.Tensor:
        try:
            raw: torch.Tensor = self.module(own)
        except IndexError as error:  # from an embedding
            raise ModelError(
                "the model looks up an index that it does not have",
                got=str(error).splitlines()[0],
                next_step="set `min` and `max` for its integers in the signature, so that other rows are rejected; "
                "to register it, --golden or --baseline with rows that it knows also helps",
            ) from error
        self._check_outputs(raw, own.shape[0])
        return raw

    def _check(self, matrix: NDArray[np.float32], batch_rows: int) -> None:
        if batch_rows < 1:
            raise ValueError(f"batch_rows must be 1 or more, not {batch_rows}")
        columns = self.signature.width
        if matrix.ndim != 2 or matrix.shape[1] != columns or matrix.dtype != np.float32:
            raise ModelMismatch(
                "the model does not accept this matrix",
                expected=f"float32 (rows, {columns})",
                got=f"{matrix.dtype} {matrix.shape}",
            )

    def _check_outputs(self, raw: torch.Tensor, rows: int) -> None:
        if raw.ndim != 2 or raw.shape[0] != rows or raw.shape[1] not in self._widths:
            raise ModelMismatch(
                "the model's output does not match its signature",
                expected=f"({rows}, {self.signature.output_count})",
                got=str(tuple(raw.shape)),
            )


def _cpu(device: str, precision: Precision, *, compiled: bool) -> str:
    """Returns the device of a model that another library runs. Raises UsageError for settings of torch alone."""
    asked = [
        *([f'device = "{device}"'] if device not in ("auto", "cpu") else []),
        *([f'precision = "{precision}"'] if precision != "float32" else []),
        *(["compile = true"] if compiled else []),
    ]
    if asked:
        raise UsageError(
            "this model is run by another library than torch: on the CPU, as it is",
            expected='device = "auto" or "cpu", precision = "float32", compile = false',
            got=", ".join(asked),
            next_step="correct these under [engine] in job.toml, or LAKESCORE_DEVICE",
        )
    return "cpu"


def choose_device(name: str) -> str:
    """Returns the device to use; `auto` is CUDA if available, else the CPU. Raises UsageError if unavailable."""
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
