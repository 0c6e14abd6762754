"""A loaded model: a matrix in, the columns of predictions out. This is the hot path."""

from __future__ import annotations

import sys

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from pipeline.errors import ModelError, ModelMismatch, UsageError
from pipeline.model.manifest import Signature


class Predictor:
    """May be called from several threads at once: it sets nothing global, and each call has its own result."""

    def __init__(self, module: nn.Module, signature: Signature, device: str = "auto") -> None:
        """`module` gives logits: (rows, features) to (rows, classes), or to (rows, 1), the logit of the second of two.

        Raises UsageError if the device is not there.
        """
        self.signature = signature
        self.device = choose_device(device)
        self._module = module.eval().requires_grad_(requires_grad=False).to(self.device)
        self._labels = np.array(signature.classes, dtype=np.int64 if self._integer else np.object_)
        self._most_rows = sys.maxsize  # in one forward pass; lowered when the device runs out of memory

    def output_schema(self) -> pa.Schema:
        label = pa.int64() if self._integer else pa.string()
        names = ["prediction_proba", *self._class_columns]
        return pa.schema([("prediction", label), *((name, pa.float32()) for name in names)])

    def predict(self, matrix: np.ndarray, batch_rows: int) -> dict[str, np.ndarray]:
        """Returns the columns of `output_schema`, each (rows,); labels of text as an object array.

        `matrix` is float32 (rows, features) in the signature's order; `batch_rows` go through the model at a time, fewer
        where the device has not the memory. Raises ModelMismatch for another matrix, ModelError if not even one row fits.
        """
        index, columns = self._score(matrix, batch_rows)
        return {"prediction": index if self._is_index else self._labels[index], **columns}

    def predict_arrow(self, matrix: np.ndarray, batch_rows: int) -> pa.RecordBatch:
        """Returns what `predict` does, as one batch of `output_schema`: for labels of text several times as fast."""
        index, columns = self._score(matrix, batch_rows)
        if self._integer:
            label = pa.array(index if self._is_index else self._labels[index])
        else:
            label = pa.DictionaryArray.from_arrays(index, pa.array(self._labels, pa.string())).cast(pa.string())
        return pa.record_batch([label, *columns.values()], schema=self.output_schema())

    @property
    def _integer(self) -> bool:
        return isinstance(self.signature.classes[0], int)

    @property
    def _is_index(self) -> bool:
        return self.signature.classes == tuple(range(len(self.signature.classes)))

    @property
    def _class_columns(self) -> list[str]:
        return [f"prob_class_{index}" for index in range(len(self.signature.classes))]

    def _score(self, matrix: np.ndarray, batch_rows: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Returns the index of the likeliest class, int64 (rows,), and the columns of probabilities by name."""
        self._check(matrix, batch_rows)
        rows = len(matrix)
        index = np.empty(rows, dtype=np.int64)
        confidence = np.empty(rows, dtype=np.float32)
        probabilities = np.empty((len(self.signature.classes), rows), dtype=np.float32)
        self._fill(matrix, batch_rows, index, confidence, probabilities)
        return index, {"prediction_proba": confidence, **dict(zip(self._class_columns, probabilities, strict=True))}

    def _fill(
        self, matrix: np.ndarray, batch_rows: int, index: np.ndarray, confidence: np.ndarray, probabilities: np.ndarray
    ) -> None:
        """Scores slice by slice into the results; a slice that does not fit into memory is halved and tried again."""
        rows = torch.from_numpy(np.require(matrix, requirements=["W"]))  # torch warns of arrays that are read-only
        results = [torch.from_numpy(result) for result in (probabilities, confidence, index)]
        size, start = min(batch_rows, self._most_rows), 0
        with torch.inference_mode():
            while start < len(rows):
                part = rows[start : start + size]
                scored = self._try(part)
                if scored is None:
                    size = self._most_rows = min(len(part) // 2, self._most_rows)
                    continue
                for result, values in zip(results, scored, strict=True):
                    result[..., start : start + len(part)] = values
                start += len(part)

    def _try(self, part: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
        """Returns probabilities (classes, rows), the highest of each row and its index; None if memory ran out."""
        try:
            probabilities = _probabilities(self._module(part.to(self.device)))  # (classes, rows)
            return probabilities, *probabilities.max(dim=0)
        except torch.cuda.OutOfMemoryError as error:
            if len(part) == 1:
                raise ModelError(
                    "the device has not the memory to score a single row",
                    where=self.device,
                    got=str(error).splitlines()[0],
                    next_step="end what else uses it, or set LAKESCORE_DEVICE=cpu",
                ) from error
            return None  # and not again from here: the error holds on to the tensors of the failed pass

    def _check(self, matrix: np.ndarray, batch_rows: int) -> None:
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

    Softmax and maximum over the last axis of a (rows, 2) tensor cost as much as half the forward pass of a small model;
    over the first axis of (2, rows) they run along contiguous memory.
    """
    columns = logits.t().contiguous()
    if len(columns) == 1:
        return torch.sigmoid(torch.cat([-columns, columns]))
    return torch.softmax(columns, dim=0)
