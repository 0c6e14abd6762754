"""From Arrow columns to the matrix that a model reads, and the fingerprint of each row.

Here alone a signature's `inputs` are applied: to examples, the golden batch, a day's rows and a file's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from pipeline.model.inputs import Input

CHUNK_ROWS = 8192
"""The rows mixed at once: small enough for the second-level cache."""
NAN_BITS = np.uint32(0x7FC00000)
SHIFT = np.uint64(29)


def to_matrix(
    batch: pa.RecordBatch, features: Sequence[str], inputs: Mapping[str, Input] | None = None
) -> NDArray[np.float32]:
    """Returns float32 (rows, columns), one column for each feature that `inputs` does not declare to have more.

    NULL becomes NaN unless the inputs say what stands for it; what float32 cannot hold becomes infinite, and so does a
    category that is not known and has no index. Raises QualityStop for one that is an error, or for a list of another
    length.
    """
    if inputs:
        from pipeline import encoding

        return encoding.to_matrix(batch, features, inputs)
    matrix = np.empty((batch.num_rows, len(features)), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for index, name in enumerate(features):
            matrix[:, index] = batch.column(name).to_numpy(zero_copy_only=False)
    return matrix


def row_fingerprints(
    batch: pa.RecordBatch, matrix: NDArray[np.float32], features: Sequence[str], inputs: Mapping[str, Input]
) -> NDArray[np.int64]:
    """Returns `fingerprints` of the values as they came: not of what an imputation or a vocabulary makes of them."""
    if not inputs:
        return fingerprints(matrix)
    from pipeline import encoding

    return fingerprints(np.hstack([to_bits(values) for values in encoding.raw(batch, features, inputs)]))


def fingerprints(matrix: NDArray[np.float32] | NDArray[np.uint32]) -> NDArray[np.int64]:
    """Returns a 64-bit hash of each row: int64 (rows,).

    Own arithmetic over the bits of the float32 values, so that it is the same in every engine and version: we store it.
    All NaN count as one value, and -0.0 as 0.0. Two rows that differ share a fingerprint with a chance of 2^-64.
    A matrix of uint32 holds bits already.
    """
    rows, columns = matrix.shape
    hashes = np.empty(rows, np.uint64)
    keys = _odd_constants(columns)
    for start in range(0, rows, CHUNK_ROWS):
        bits = to_bits(matrix[start : start + CHUNK_ROWS])  # (chunk, columns)
        mixed = hashes[start : start + CHUNK_ROWS]
        mixed[:] = np.uint64(columns)
        for index in range(columns):
            mixed ^= bits[:, index]
            mixed *= keys[index]
            mixed ^= mixed >> SHIFT
    return hashes.view(np.int64)


def to_bits(values: NDArray[np.float32] | NDArray[np.uint32]) -> NDArray[np.uint32]:
    if values.dtype == np.uint32:
        return values.view(np.uint32)
    values = values + np.float32(0.0)  # a copy; -0.0 + 0.0 is 0.0
    bits = values.view(np.uint32)
    bits[np.isnan(values)] = NAN_BITS
    return bits


def _odd_constants(count: int) -> NDArray[np.uint64]:
    """Returns the first numbers of splitmix64 (Steele, Lea, Flood 2014), made odd."""
    state = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (state ^ (state >> np.uint64(31))) | np.uint64(1)
