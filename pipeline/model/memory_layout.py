"""How the matrix lies in memory: column by column, as Arrow's columns do, or row by row if it has lists.

Filled row by row, each value of a column would touch another cache line; but the values of a list lie together in
Arrow, too. Both layouts hold the same values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

APART = 16
"""Unused values between two columns, 64 bytes: columns that lie 2^n bytes apart would share few lines of the cache."""


def empty(rows: int, columns: int) -> NDArray[np.float32]:
    """Returns float32 (rows, columns), not yet filled, that lies column by column."""
    return np.empty((columns, rows + APART), np.float32)[:, :rows].T


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
