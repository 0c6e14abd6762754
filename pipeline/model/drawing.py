"""Rows made up for a golden batch: of each feature, values of the kind that the signature says."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

import numpy as np
import pyarrow as pa

from pipeline.model.inputs import Category, FixedList, Input, Number, Timestamp

if TYPE_CHECKING:
    from numpy.random import Generator

    from pipeline.model.manifest import Signature

YEAR_S = 365 * 86_400


def draw(signature: Signature, rows: int) -> pa.RecordBatch:
    """Returns the features: zeros, then standard normal numbers times 0.01 to 100, the same every time."""
    rng = np.random.default_rng(0)
    sizes = 10.0 ** rng.uniform(-2, 2, (rows, 1))
    numbers = rng.normal(size=(rows, len(signature.features))) * sizes
    numbers[0] = 0
    columns = {
        name: _column(signature.inputs.get(name, Number()), numbers[:, [index]].astype(np.float32), rng)
        for index, name in enumerate(signature.features)
    }
    return pa.record_batch(columns)


def _column(how: Input, numbers: np.ndarray, rng: Generator) -> pa.Array:
    rows = len(numbers)
    match how:
        case Number():
            return pa.array(numbers[:, 0])
        case Category():
            return pa.array(how.vocabulary).take(pa.array(rng.integers(len(how.vocabulary), size=rows)))
        case Timestamp():
            seconds = round(how.origin.timestamp()) + rng.integers(YEAR_S, size=rows)
            return pa.array(seconds * 1_000_000, pa.timestamp("us", "UTC"))
        case FixedList():
            values = rng.normal(size=(rows, how.length)).astype(np.float32)
            return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), how.length)
        case _:
            assert_never(how)
