"""From what a model gives to what is stored of it: one head a task. They run in the hot path, on the model's device.

Each works on columns: (outputs, rows) is an axis for which softmax and copies are ten times as fast as (rows, outputs).
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

Results = tuple[NDArray[Any], ...]
ANY_ROWS = sys.maxsize
SCORES_AT_ONCE = 2_000_000
"""Of a ranking, 8 MB: the scores of all items are there for a part of the rows only, which fits the caches."""


class Head(Protocol):
    most_rows: int
    """How many rows may go through the model at a time."""

    def empty(self, rows: int) -> Results:
        """Returns arrays whose last axis is the rows, which `compute` fills part by part."""

    def compute(self, raw: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns what goes into those arrays, from the model's output (rows, outputs)."""

    def arrow(self, results: Results) -> list[Any]:
        """Returns the columns of the task's schema, as Arrow or numpy arrays."""

    def numpy(self, results: Results) -> list[NDArray[Any]]:
        """Returns the same as numpy arrays (rows,), text and lists as objects; of a ranking (rows, top)."""


def head_of(signature: Signature) -> Head:
    match signature.task:
        case "classification":
            return Classification(signature)
        case "regression":
            return Regression(signature)
        case "multilabel":
            return MultiLabel(signature)
        case "ranking":
            return Ranking(signature)
        case _:
            assert_never(signature.task)


class Classification:
    """Softmax, the likeliest class and its probability; of a single output, the logit of the second class."""

    most_rows = ANY_ROWS

    def __init__(self, signature: Signature) -> None:
        self._count = len(signature.classes)
        self._labels = pa.array(signature.classes, output_schema(signature).field("prediction").type)
        self._identity = signature.classes == tuple(range(self._count))

    def empty(self, rows: int) -> Results:
        return np.empty((self._count, rows), np.float32), np.empty(rows, np.float32), np.empty(rows, np.int64)

    def compute(self, raw: torch.Tensor) -> tuple[torch.Tensor, ...]:
        probabilities = _probabilities(raw)  # (classes, rows)
        return probabilities, *probabilities.max(dim=0)

    def arrow(self, results: Results) -> list[Any]:
        probabilities, confidence, index = results
        labels = pa.array(index) if self._identity else self._labels.take(pa.array(index))
        return [labels, confidence, *probabilities]

    def numpy(self, results: Results) -> list[NDArray[Any]]:
        probabilities, confidence, index = results
        labels = index if self._identity else self._labels.to_numpy(zero_copy_only=False)[index]
        return [labels, confidence, *probabilities]


class Regression:
    """The value, and its variance or quantiles if the model gives them."""

    most_rows = ANY_ROWS

    def __init__(self, signature: Signature) -> None:
        self._outputs = signature.outputs
        self._log_variance = signature.variance == "log_variance"
        self._middle = len(signature.quantiles) // 2

    def empty(self, rows: int) -> Results:
        return (np.empty((self._outputs, rows), np.float32),)

    def compute(self, raw: torch.Tensor) -> tuple[torch.Tensor, ...]:
        columns = torch.stack(raw.unbind(dim=1))
        if self._log_variance:
            columns[1] = columns[1].exp()
        return (columns,)

    def arrow(self, results: Results) -> list[Any]:
        return self.numpy(results)

    def numpy(self, results: Results) -> list[NDArray[Any]]:
        (columns,) = results
        return [columns[self._middle], *columns] if self._middle else list(columns)


class MultiLabel:
    """A sigmoid for each label, and the list of those that reach the threshold."""

    most_rows = ANY_ROWS

    def __init__(self, signature: Signature) -> None:
        self._count = len(signature.classes)
        self._labels = pa.array(signature.classes, output_schema(signature).field("prediction").type.value_type)
        self._threshold = np.float32(signature.threshold)

    def empty(self, rows: int) -> Results:
        return (np.empty((self._count, rows), np.float32),)

    def compute(self, raw: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (torch.sigmoid(torch.stack(raw.unbind(dim=1))),)

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
    """The best items and their scores, as the model gives them. Of items with the same score any may come first."""

    def __init__(self, signature: Signature) -> None:
        assert signature.top is not None
        self._top = signature.top
        self._labels = pa.array(signature.classes, output_schema(signature).field("top_items").type.value_type)
        self.most_rows = max(1, SCORES_AT_ONCE // len(signature.classes))

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


def _probabilities(logits: torch.Tensor) -> torch.Tensor:
    """Returns (classes, rows) of (rows, classes), or of the single logit (rows, 1) of the second class.

    Over the last axis of (8192, 2), softmax takes 400 us, a third of what a 6-64-64-2 network takes; over the first
    axis of (2, 8192), 16 us. Stacking the columns takes 13 us, and `t().contiguous()` 44 us.
    """
    columns = torch.stack(logits.unbind(dim=1))
    if len(columns) == 1:
        return torch.sigmoid(torch.cat([-columns, columns]))
    return torch.softmax(columns, dim=0)
