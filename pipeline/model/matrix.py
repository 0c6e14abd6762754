"""Converts Arrow columns to the matrix that a model reads, and computes the fingerprint of each row.

Only here are a signature's `inputs` applied, whether to examples, the golden batch, the rows of a day or of a file.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.model import rounding
from pipeline.model.memory_layout import FEW, aligned, by_columns, empty, transposed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from pipeline.model.inputs import Input

CHUNK_ROWS = 32_768
"""Number of rows hashed at once: small enough for the level-2 cache, and large enough for few calls of numpy."""
BLOCK_VALUES = 131_072
"""Number of values that are filled, checked and hashed one after another, likewise; at least a whole column."""
SHIFT = np.uint64(29)
MINUS_ZERO = np.iinfo(np.int32).min
"""The bits of -0.0 as an integer, which is the least of all."""


@dataclass(frozen=True)
class Features:
    """The features of a batch of rows."""

    matrix: NDArray[np.float32]
    """What the model reads, (rows, columns)."""
    fingerprints: NDArray[np.int64]
    """Fingerprints of the raw values, (rows,)."""
    finite: bool
    """Whether all values of the matrix are finite."""


def features_of(batch: pa.RecordBatch, features: Sequence[str], inputs: Mapping[str, Input]) -> Features:
    """Returns what `to_matrix` and `row_fingerprints` do, from one pass over blocks that stay in the cache.

    Raises the errors of `to_matrix`.
    """
    if inputs:
        matrix = to_matrix(batch, features, inputs)
        return Features(matrix, row_fingerprints(batch, matrix, features, inputs), is_finite(matrix))
    matrix = empty(batch.num_rows, len(features))
    hashes, finite = Hashes(*matrix.shape), True
    for block in _blocks(matrix):
        columns = matrix.T[block]
        _fill(columns, batch, features[block])
        finite = hashes.add(columns) and finite
    return Features(matrix, hashes.fingerprints, finite)


def to_matrix(
    batch: pa.RecordBatch, features: Sequence[str], inputs: Mapping[str, Input] | None = None
) -> NDArray[np.float32]:
    """Returns float32 (rows, columns), with one column per feature unless `inputs` declares more.

    NULL becomes NaN unless `inputs` declares a replacement. Values too large for float32 become infinite, and so do
    unknown categories with `unknown = "quarantine"`. Raises QualityStop for unknown categories with
    `unknown = "error"`, and for lists of the wrong length.
    """
    if inputs:
        from pipeline.model import encoding

        return encoding.to_matrix(batch, features, inputs)
    matrix = empty(batch.num_rows, len(features))
    _fill(matrix.T, batch, features)
    return matrix


def is_finite(values: NDArray[Any]) -> bool:
    """Tells whether all values are finite: without an array of the answers, and faster than by their sum."""
    with np.errstate(invalid="ignore"):
        return bool(np.isfinite(values.min(initial=0)) and np.isfinite(values.max(initial=0)))


def row_fingerprints(
    batch: pa.RecordBatch, matrix: NDArray[np.float32], features: Sequence[str], inputs: Mapping[str, Input]
) -> NDArray[np.int64]:
    """Returns `fingerprints` of the raw values, before imputation or encoding by a vocabulary; int64 (rows,)."""
    if not inputs:
        return fingerprints(matrix)
    from pipeline.model import encoding

    return fingerprints(*encoding.raw(batch, features, inputs))


def fingerprints(*parts: NDArray[np.float32] | NDArray[np.uint32]) -> NDArray[np.int64]:
    """Returns a 64-bit hash of each row: int64 (rows,). Each part has some columns of all rows, in either layout.

    Uses its own arithmetic over the bits of the float32 values: fingerprints are stored, so they must be the same in
    every engine and version. All NaN count as one value, and -0.0 as 0.0. Two different rows have the same fingerprint
    with a probability of 2^-64. A uint32 matrix already contains bits.
    """
    hashes = Hashes(len(parts[0]), sum(part.shape[1] for part in parts))
    for part in parts:
        if by_columns(part):
            for block in _blocks(part):
                hashes.add(part.T[block])
        else:
            for first in range(0, part.shape[1], FEW):
                hashes.add(transposed(part[:, first : first + FEW]))
    return hashes.fingerprints


class Hashes:
    """The hashes of rows, to which columns are added in their order."""

    def __init__(self, rows: int, columns: int) -> None:
        self._mixed, self._shifted = aligned((rows,), np.uint64), aligned((min(rows, CHUNK_ROWS),), np.uint64)
        self._mixed[:] = columns
        self._keys = iter(_odd_constants(columns))

    def add(self, columns: NDArray[Any]) -> bool:
        """Adds float32 values or uint32 bits, (columns, rows), and tells whether all are finite; bits always are."""
        finite = columns.dtype == np.uint32 or is_finite(columns)
        same = columns.dtype == np.uint32 or (finite and columns.view(np.int32).min(initial=0) > MINUS_ZERO)
        bits = columns.view(np.uint32) if same else rounding.to_bits(columns)  # a copy
        keys = list(islice(self._keys, len(bits)))
        for start in range(0, len(self._mixed), CHUNK_ROWS):
            chunk = slice(start, start + CHUNK_ROWS)
            mixed = self._mixed[chunk]
            shifted = self._shifted[: len(mixed)]
            for key, column in zip(keys, bits[:, chunk], strict=True):
                np.bitwise_xor(mixed, column, mixed)
                np.multiply(mixed, key, mixed)
                np.right_shift(mixed, SHIFT, shifted)
                np.bitwise_xor(mixed, shifted, mixed)
        return finite

    @property
    def fingerprints(self) -> NDArray[np.int64]:
        return self._mixed.view(np.int64)


def _fill(columns: NDArray[np.float32], batch: pa.RecordBatch, features: Sequence[str]) -> None:
    """Fills values, (features, rows)."""
    with np.errstate(over="ignore", invalid="ignore"):
        for name, column in zip(features, columns, strict=True):
            rounding.put(batch.column(name), column)


def _blocks(matrix: NDArray[Any]) -> Iterator[slice]:
    """Yields the columns of a matrix, as many at a time as fit into the cache."""
    step = max(1, BLOCK_VALUES // max(1, len(matrix)))
    for first in range(0, matrix.shape[1], step):
        yield slice(first, first + step)


@cache
def _odd_constants(count: int) -> tuple[NDArray[np.uint64], ...]:
    """Returns the first numbers of splitmix64 (Steele, Lea, Flood 2014), made odd; as arrays, shape (), for speed."""
    state = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return tuple(np.array(key) for key in (state ^ (state >> np.uint64(31))) | np.uint64(1))
