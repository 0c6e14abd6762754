"""How the matrix lies in memory: column by column, as Arrow's columns do, or row by row if it has lists.

Filled row by row, each value of a column would touch another cache line; but the values of a list lie together in
Arrow, too. Both layouts hold the same values.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Value = TypeVar("Value", bound=np.generic)
LINE = 64
"""Bytes of a line of the cache."""
APART = 16
"""Unused values between two columns, 64 bytes: columns that lie 2^n bytes apart would share few lines of the cache."""

FEW = 16
"""Number of columns of a row that share a line of the cache."""
TILE_ROWS = 2048
"""Number of rows that are transposed at once, so that the lines of `FEW` columns stay in the cache."""


def empty(rows: int, columns: int) -> NDArray[np.float32]:
    """Returns float32 (rows, columns), not yet filled, that lies column by column."""
    return aligned((columns, rows + APART), np.float32)[:, :rows].T


def aligned(shape: tuple[int, ...], kind: type[Value]) -> NDArray[Value]:
    """Returns an array of a kind, not yet filled, that begins with a line of the cache.

    The memory that numpy itself takes begins 16 bytes later: every second instruction would touch two lines, which
    makes a pass over the array an eighth slower.
    """
    size = math.prod(shape) * np.dtype(kind).itemsize
    memory = np.empty(size + LINE, np.uint8)
    start = -memory.ctypes.data % LINE
    return memory[start : start + size].view(kind).reshape(shape)


def transposed(matrix: NDArray[Value]) -> NDArray[Value]:
    """Returns a copy of a few columns that lie row by row, (columns, rows), which lies column by column."""
    found = aligned(matrix.shape[::-1], matrix.dtype.type)
    for start in range(0, len(matrix), TILE_ROWS):
        found[:, start : start + TILE_ROWS] = matrix[start : start + TILE_ROWS].T
    return found


def taken(matrix: NDArray[np.float32], places: NDArray[np.int64]) -> NDArray[np.float32]:
    """Returns the rows at some places, in the same layout."""
    if not by_columns(matrix):
        return matrix[places]
    found = empty(len(places), matrix.shape[1])
    for column, values in zip(found.T, matrix.T, strict=True):
        np.take(values, places, out=column, mode="clip")  # any other mode would take a copy
    return found


def by_columns(matrix: NDArray[np.generic]) -> bool:
    """Tells whether a matrix lies column by column."""
    return matrix.strides[0] < matrix.strides[1]
