"""Converts Arrow columns to the matrix that a model reads, and computes the fingerprint of each row.

Only here are a signature's `inputs` applied, whether to examples, the golden batch, the rows of a day or of a file.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from pipeline.model import rounding
from pipeline.model.memory_layout import empty

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from pipeline.model.inputs import Input

CHUNK_ROWS = 32_768
"""Number of rows hashed at once: small enough for the level-2 cache, and large enough for few calls of numpy."""
BLOCK_VALUES = 131_072
"""Number of values of which the bits are taken at once, likewise."""
SHIFT = np.uint64(29)


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
    with np.errstate(over="ignore", invalid="ignore"):
        for index, name in enumerate(features):
            rounding.put(batch.column(name), matrix[:, index])
    return matrix


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
    rows, columns = len(parts[0]), sum(part.shape[1] for part in parts)
    hashes = np.empty(rows, np.uint64)
    keys = _odd_constants(columns)
    shifted = np.empty(min(rows, CHUNK_ROWS), np.uint64)
    for start in range(0, rows, CHUNK_ROWS):
        mixed = hashes[start : start + CHUNK_ROWS]
        mixed[:] = np.uint64(columns)
        bits = (column for part in parts for column in _columns_of(part[start : start + CHUNK_ROWS]))
        for key, column in zip(keys, bits, strict=True):
            mixed ^= column
            mixed *= key
            mixed ^= np.right_shift(mixed, SHIFT, out=shifted[: len(mixed)])
    return hashes.view(np.int64)


def _columns_of(chunk: NDArray[np.float32] | NDArray[np.uint32]) -> Iterator[NDArray[np.uint32]]:
    """Yields the bits of each column, (rows,), contiguous."""
    columns = max(1, BLOCK_VALUES // max(1, len(chunk)))
    for first in range(0, chunk.shape[1], columns):
        yield from np.ascontiguousarray(rounding.to_bits(chunk[:, first : first + columns]).T)


@cache
def _odd_constants(count: int) -> tuple[np.uint64, ...]:
    """Returns the first numbers of splitmix64 (Steele, Lea, Flood 2014), made odd."""
    state = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return tuple((state ^ (state >> np.uint64(31))) | np.uint64(1))
