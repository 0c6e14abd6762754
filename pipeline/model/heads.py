"""Heads convert a model's raw output to the stored columns, one head per task. They run in the hot path, on its device.

Heads work on columns: softmax and copies are ten times as fast with the layout (outputs, rows) as with (rows, outputs).
They compute in float32, whatever the precision of the model's output.
"""

from __future__ import annotations

import sys
from typing import Any, Protocol, assert_never

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from pipeline.model.manifest import Signature
from pipeline.model.outputs import output_schema
from pipeline.model.precision import HALF_ROUNDING, ROUNDING

Results = tuple[NDArray[Any], ...]
ANY_ROWS = sys.maxsize
SCORES_AT_ONCE = 2_000_000
"""Maximum number of ranking scores in memory on a CPU, 8 MB: rows are scored in parts that fit into the caches."""


class Head(Protocol):
    most_rows: int
    """Maximum number of rows per forward pass."""

    def empty(self, rows: int) -> Results:
        """Returns empty arrays with rows as the last axis, to be filled with the results of `compute`."""

    def compute(self, raw: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns values for the arrays of `empty`, from the model's raw output (rows, outputs) of any precision."""

    def arrow(self, results: Results) -> list[Any]:
        """Returns the columns of the task's schema, as Arrow or numpy arrays."""

    def numpy(self, results: Results) -> list[NDArray[Any]]:
        """Returns the same columns as numpy arrays (rows,), or (rows, top) for a ranking; text and lists as objects."""


def head_of(signature: Signature, *, half: bool = False, scores_at_once: int | None = None) -> Head:
    """Returns the head of a task. `half`: the model computes in float16 or bfloat16, and rounds accordingly.

    `scores_at_once` is the largest number of ranking scores in memory; by default SCORES_AT_ONCE.
    """
    match signature.task:
        case "classification":
            return Classification(signature, half=half)
        case "regression":
            return Regression(signature)
        case "multilabel":
            return MultiLabel(signature)
        case "ranking":
            return Ranking(signature, scores_at_once)
        case _:
            assert_never(signature.task)


class Classification:
    """Probabilities, the most likely class and its probability; a single output belongs to the second class."""

    most_rows = ANY_ROWS

    def __init__(self, signature: Signature, *, half: bool) -> None:
        self._given, self._half = signature.outputs, half
        self._count = len(signature.classes)
        self._labels = pa.array(signature.classes, output_schema(signature).field("prediction").type)
        self._identity = signature.classes == tuple(range(self._count))

    def empty(self, rows: int) -> Results:
        return np.empty((self._count, rows), np.float32), np.empty(rows, np.float32), np.empty(rows, np.int64)

    def compute(self, raw: torch.Tensor) -> tuple[torch.Tensor, ...]:
        columns = _columns(raw)
        match self._given:
            case "logits":
                probabilities = _from_logits(columns)
            case "probabilities":
                probabilities = self._rounded(columns)
            case "log_probabilities":
                probabilities = self._rounded(columns.exp())
            case _:
                assert_never(self._given)
        return probabilities, *probabilities.max(dim=0)

    def _rounded(self, given: torch.Tensor) -> torch.Tensor:
        """Returns (classes, rows) from the model's own probabilities, without the rounding errors of its precision."""
        found = _inside(given)
        if len(found) == 1:
            return torch.cat([1 - found, found])
        if not self._half:
            return found
        total = found.sum(dim=0)
        return torch.where((total - 1).abs() <= HALF_ROUNDING, found / total, found)

    def arrow(self, results: Results) -> list[Any]:
        probabilities, confidence, index = results
        labels = pa.array(index) if self._identity else self._labels.take(pa.array(index))
        return [labels, confidence, *probabilities]

    def numpy(self, results: Results) -> list[NDArray[Any]]:
        probabilities, confidence, index = results
        labels = index if self._identity else self._labels.to_numpy(zero_copy_only=False)[index]
        return [labels, confidence, *probabilities]


class Regression:
    """The value, and its variance or quantiles if the model outputs them."""

    most_rows = ANY_ROWS

    def __init__(self, signature: Signature) -> None:
        self._outputs = signature.output_count
        self._log_variance = signature.variance == "log_variance"
        self._middle = len(signature.quantiles) // 2

    def empty(self, rows: int) -> Results:
        return (np.empty((self._outputs, rows), np.float32),)

    def compute(self, raw: torch.Tensor) -> tuple[torch.Tensor, ...]:
        columns = _columns(raw)
        if self._log_variance:
            columns[1] = columns[1].exp()
        return (columns,)

    def arrow(self, results: Results) -> list[Any]:
        return self.numpy(results)

    def numpy(self, results: Results) -> list[NDArray[Any]]:
        (columns,) = results
        return [columns[self._middle], *columns] if self._middle else list(columns)


class MultiLabel:
    """The probability of each label, and the list of the labels that reach the threshold."""

    most_rows = ANY_ROWS

    def __init__(self, signature: Signature) -> None:
        self._given = signature.outputs
        self._count = len(signature.classes)
        self._labels = pa.array(signature.classes, output_schema(signature).field("prediction").type.value_type)
        self._threshold = np.float32(signature.threshold)

    def empty(self, rows: int) -> Results:
        return (np.empty((self._count, rows), np.float32),)

    def compute(self, raw: torch.Tensor) -> tuple[torch.Tensor, ...]:
        columns = _columns(raw)
        match self._given:
            case "logits":
                return (torch.sigmoid(columns),)
            case "probabilities":
                return (_inside(columns),)
            case "log_probabilities":
                return (_inside(columns.exp()),)
            case _:
                assert_never(self._given)

    def arrow(self, results: Results) -> list[Any]:
        (probabilities,) = results
        chosen = self._threshold <= probabilities.T  # (rows, labels)
        offsets = np.zeros(len(chosen) + 1, np.int32)
        np.cumsum(chosen.sum(axis=1), out=offsets[1:])
        labels = self._labels.take(pa.array(np.nonzero(chosen)[1]))
        return [_lists(pa.array(offsets), labels), *probabilities]

    def numpy(self, results: Results) -> list[NDArray[Any]]:
        lists, *probabilities = self.arrow(results)
        return [lists.to_numpy(zero_copy_only=False), *probabilities]


class Ranking:
    """The best items and their raw scores. Items with equal scores may come in any order."""

    def __init__(self, signature: Signature, scores_at_once: int | None = None) -> None:
        assert signature.top is not None
        self._top = signature.top
        self._labels = pa.array(signature.classes, output_schema(signature).field("top_items").type.value_type)
        self.most_rows = max(1, (scores_at_once or SCORES_AT_ONCE) // len(signature.classes))

    def empty(self, rows: int) -> Results:
        return np.empty((self._top, rows), np.float32), np.empty((self._top, rows), np.int64)

    def compute(self, raw: torch.Tensor) -> tuple[torch.Tensor, ...]:
        scores, index = raw.topk(self._top, dim=1)  # (rows, top)
        return scores.t(), index.t()

    def arrow(self, results: Results) -> list[Any]:
        scores, index = (np.ascontiguousarray(part.T).ravel() for part in results)
        offsets = pa.array(np.arange(0, len(scores) + 1, self._top, dtype=np.int32))
        items = self._labels.take(pa.array(index))
        return [_lists(offsets, items), _lists(offsets, pa.array(scores))]

    def numpy(self, results: Results) -> list[NDArray[Any]]:
        scores, index = results
        return [self._labels.to_numpy(zero_copy_only=False)[index.T], np.ascontiguousarray(scores.T)]


def _lists(offsets: pa.Array, values: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(offsets, values, type=pa.list_(values.type))


def _columns(raw: torch.Tensor) -> torch.Tensor:
    """Returns float32 (outputs, rows) from (rows, outputs).

    Over the last axis of (8192, 2), softmax takes 400 us, a third of what a 6-64-64-2 network takes; over the first
    axis of (2, 8192), 16 us. Stacking the columns takes 13 us, and `t().contiguous()` 44 us.
    """
    return torch.stack(raw.unbind(dim=1)).float()


def _from_logits(columns: torch.Tensor) -> torch.Tensor:
    """Returns probabilities (classes, rows); a single column has the logits of the second class."""
    if len(columns) == 1:
        return torch.sigmoid(torch.cat([-columns, columns]))
    return torch.softmax(columns, dim=0)


def _inside(probabilities: torch.Tensor) -> torch.Tensor:
    """Returns 0 or 1 for what rounding has put just outside. Anything further out stays, for the output checks."""
    clamped = probabilities.clamp(0, 1)
    return torch.where((probabilities - clamped).abs() <= ROUNDING, clamped, probabilities)
