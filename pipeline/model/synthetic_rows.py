"""Synthetic rows for a golden batch: values of the kinds that the signature declares, or values of real rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

import numpy as np
import pyarrow as pa

from pipeline.model import scaling, sequences
from pipeline.model.inputs import Category, FixedList, Hash, Input, Integer, Number, PaddedList, Timestamp

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

    from pipeline.model.manifest import Signature

YEAR_S = 365 * 86_400


def draw(signature: Signature, rows: int) -> pa.RecordBatch:
    """Returns the feature columns, always the same: zeros, then normal numbers scaled by 0.01 to 100 per row."""
    rng = np.random.default_rng(0)
    sizes = 10.0 ** rng.uniform(-2, 2, (rows, 1))
    numbers = rng.normal(size=(rows, len(signature.features))) * sizes
    numbers[0] = 0
    columns = {
        name: _column(signature.inputs.get(name, Number()), numbers[:, [index]].astype(np.float32), rng)
        for index, name in enumerate(signature.features)
    }
    return pa.record_batch(columns)


def draw_from(batch: pa.RecordBatch, rows: int) -> pa.RecordBatch:
    """Returns rows whose values are drawn from a batch, each column on its own: always the same for the same batch."""
    rng = np.random.default_rng(0)
    drawn = [column.take(pa.array(rng.integers(batch.num_rows, size=rows))) for column in batch.columns]
    return pa.record_batch(drawn, schema=batch.schema)


def _column(how: Input, numbers: np.ndarray, rng: Generator) -> pa.Array:  # noqa: PLR0911 - one line per kind
    rows = len(numbers)
    match how:
        case Number():
            return pa.array(scaling.unscaled(numbers, how)[:, 0] if how.scale else numbers[:, 0])
        case Category():
            return pa.array(how.vocabulary).take(pa.array(rng.integers(len(how.vocabulary), size=rows)))
        case Integer():
            return pa.array(_integers(rng, rows, how.min, how.max))
        case Hash():
            return pa.array(_integers(rng, rows, None, None))
        case Timestamp():
            seconds = round(how.origin.timestamp()) + rng.integers(YEAR_S, size=rows)
            return pa.array(seconds * 1_000_000, pa.timestamp("us", "UTC"))
        case FixedList():
            values = rng.normal(size=(rows, how.length)).astype(np.float32)
            elements = scaling.unscaled(values, how) if how.scale else values
            return pa.FixedSizeListArray.from_arrays(pa.array(elements.ravel()), how.length)
        case PaddedList():
            return _lists(rng, rows, how)
        case _:
            assert_never(how)


def _lists(rng: Generator, rows: int, how: PaddedList) -> pa.Array:
    """Returns lists of 0 to `length` elements within the limits."""
    lengths = rng.integers(how.length, size=rows, endpoint=True)
    low, high = (-sequences.EXACT if how.min is None else how.min), (sequences.EXACT if how.max is None else how.max)
    total = int(lengths.sum())
    elements = _integers(rng, total, int(low), int(high)) if how.int64 else np.clip(rng.normal(size=total), low, high)
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32()), pa.array(elements))


def _integers(rng: Generator, rows: int, low: int | None, high: int | None) -> NDArray[np.int64]:
    """Returns int64 (rows,) within the limits: evenly if there are two, else of all magnitudes, most above 2^24."""
    if low is not None and high is not None:
        return rng.integers(low, high, size=rows, endpoint=True)
    drawn = (2.0 ** rng.uniform(0, 62, rows) * rng.choice([-1, 1], rows)).astype(np.int64)
    found: NDArray[np.int64] = np.clip(drawn, low, high)
    return found
