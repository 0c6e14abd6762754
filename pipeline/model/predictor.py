"""A loaded model: a matrix in, the columns of predictions out. This is the hot path."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.errors import ModelError, ModelMismatch, UsageError
from pipeline.model.manifest import Signature
from pipeline.model.outputs import output_schema

Columns = dict[str, NDArray[np.float32]]


class Predictor:
    """May be called from several threads at once: it sets nothing global, and each call has its own result."""

    def __init__(self, module: nn.Module, signature: Signature, device: str = "auto") -> None:
        """`module` gives logits: (rows, features) to (rows, classes), or to (rows, 1), the logit of the second of two.

        Raises UsageError if the device is not there.
        """
        self.signature = signature
        self.device = choose_device(device)
        self.module = module.eval().requires_grad_(requires_grad=False).to(self.device)
        self._schema = output_schema(signature)
        self._labels = pa.array(signature.classes, self._schema.field("prediction").type)
        self._identity = signature.classes == tuple(range(len(signature.classes)))
        self._most_rows: int = getattr(module, "most_rows", sys.maxsize)  # at a time; lowered when memory runs out

    def output_schema(self) -> pa.Schema:
        return self._schema

    def predict(self, matrix: NDArray[np.float32], batch_rows: int) -> dict[str, NDArray[Any]]:
        """Returns the columns of `output_schema`, each (rows,); labels of text as an object array.

        `matrix` is float32 (rows, features) in the signature's order; `batch_rows` go through the model at a time, or
        fewer where memory is short. Raises ModelMismatch for another matrix, ModelError if not even one row fits.
        """
        index, columns = self._score(matrix, batch_rows)
        labels = index if self._identity else self._labels.to_numpy(zero_copy_only=False)[index]
        return {"prediction": labels, **columns}

    def predict_arrow(self, matrix: NDArray[np.float32], batch_rows: int) -> pa.RecordBatch:
        """Returns what `predict` does, as one batch of `output_schema`: for labels of text ten times as fast."""
        index, columns = self._score(matrix, batch_rows)
        labels = pa.array(index) if self._identity else self._labels.take(pa.array(index))
        return pa.record_batch([labels, *columns.values()], schema=self._schema)

    def _score(self, matrix: NDArray[np.float32], batch_rows: int) -> tuple[NDArray[np.int64], Columns]:
        """Returns the index of the likeliest class, (rows,), and the columns of probabilities by name."""
        self._check(matrix, batch_rows)
        rows = len(matrix)
        probabilities = np.empty((len(self.signature.classes), rows), np.float32)
        confidence = np.empty(rows, np.float32)
        index = np.empty(rows, np.int64)
        results = [torch.from_numpy(result) for result in (probabilities, confidence, index)]
        self._fill(results, torch.from_numpy(np.require(matrix, requirements=["W"])), batch_rows)  # or torch warns
        names = self._schema.names[1:]
        return index, dict(zip(names, (confidence, *probabilities), strict=True))

    def _fill(self, results: list[torch.Tensor], matrix: torch.Tensor, batch_rows: int) -> None:
        """Scores slice by slice into the results; a slice too large for the memory is halved and tried again."""
        start = 0
        with torch.inference_mode():
            while start < len(matrix):
                part = matrix[start : start + min(batch_rows, self._most_rows)]
                scored = self._try(part)
                if scored is None:
                    self._most_rows = min(len(part) // 2, self._most_rows)
                    continue
                for result, values in zip(results, scored, strict=True):
                    result[..., start : start + len(part)] = values
                start += len(part)

    def _try(self, part: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
        """Returns probabilities (classes, rows), the highest of each row and its index; None if memory ran out."""
        try:
            own = part.to(self.device, copy=True)  # (rows, features); a module may write into what it is given
            probabilities = _probabilities(self.module(own))  # (classes, rows)
            return probabilities, *probabilities.max(dim=0)
        except torch.cuda.OutOfMemoryError as error:
            if len(part) == 1:
                raise ModelError(
                    "the device has not the memory to score a single row",
                    where=self.device,
                    got=str(error).splitlines()[0],
                    next_step="end what else uses it, or set LAKESCORE_DEVICE=cpu",
                ) from error
            return None  # tried again outside: the error holds on to the tensors of the failed pass

    def _check(self, matrix: NDArray[np.float32], batch_rows: int) -> None:
        if batch_rows < 1:
            raise ValueError(f"batch_rows must be 1 or more, not {batch_rows}")
        features = len(self.signature.features)
        if matrix.ndim != 2 or matrix.shape[1] != features or matrix.dtype != np.float32:
            raise ModelMismatch(
                "the matrix is not one that the model takes",
                expected=f"float32 (rows, {features})",
                got=f"{matrix.dtype} {matrix.shape}",
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


def _probabilities(logits: torch.Tensor) -> torch.Tensor:
    """Returns (classes, rows) of (rows, classes), or of the single logit (rows, 1) of the second class.

    Over the last axis of (8192, 2), softmax takes 400 us, a third of what a 6-64-64-2 network takes; over the first
    axis of (2, 8192), 16 us. Stacking the columns takes 13 us, and `t().contiguous()` 44 us.
    """
    columns = torch.stack(logits.unbind(dim=1))
    if len(columns) == 1:
        return torch.sigmoid(torch.cat([-columns, columns]))
    return torch.softmax(columns, dim=0)
