"""From Arrow columns to the matrix that a model reads, and the fingerprint of each row of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

CHUNK_ROWS = 8192
"""The rows mixed at once: small enough for the second-level cache."""
NAN_BITS = np.uint32(0x7FC00000)
SHIFT = np.uint64(29)


def to_matrix(batch: pa.RecordBatch, features: Sequence[str]) -> NDArray[np.float32]:
    """Returns float32 (rows, features). NULL becomes NaN; what float32 cannot hold becomes infinite."""
    matrix = np.empty((batch.num_rows, len(features)), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for index, name in enumerate(features):
            matrix[:, index] = batch.column(name).to_numpy(zero_copy_only=False)
    return matrix


def fingerprints(matrix: NDArray[np.float32]) -> NDArray[np.int64]:
    """Returns a 64-bit hash of each row: int64 (rows,).

    Own arithmetic over the bits of the float32 values, so that it is the same in every engine and version: we store it.
    All NaN count as one value, and -0.0 as 0.0. Two rows that differ share a fingerprint with a chance of 2^-64.
    """
    rows, columns = matrix.shape
    hashes = np.empty(rows, np.uint64)
    keys = _odd_constants(columns)
    for start in range(0, rows, CHUNK_ROWS):
        values = matrix[start : start + CHUNK_ROWS] + np.float32(0.0)  # (chunk, features); -0.0 + 0.0 is 0.0
        bits = values.view(np.uint32)
        bits[np.isnan(values)] = NAN_BITS
        mixed = hashes[start : start + CHUNK_ROWS]
        mixed[:] = np.uint64(columns)
        for index in range(columns):
            mixed ^= bits[:, index]
            mixed *= keys[index]
            mixed ^= mixed >> SHIFT
    return hashes.view(np.int64)


def _odd_constants(count: int) -> NDArray[np.uint64]:
    """Returns the first numbers of splitmix64 (Steele, Lea, Flood 2014), made odd."""
    state = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (state ^ (state >> np.uint64(31))) | np.uint64(1)
