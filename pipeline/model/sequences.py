"""Lists of varying length as rows of a fixed one: filled up, or cut, at the side that the signature names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from pipeline.model import rounding

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from pipeline.model.inputs import PaddedList

EXACT = 2**24
"""Integers up to this size are exact as float32; as an element that the model takes as int64, none is larger."""


def put(column: pa.Array, how: PaddedList, out: NDArray[np.float32]) -> None:
    """Fills `out`, float32 (rows, length).

    A NULL list becomes NaN unless `null` says otherwise. Infinite become: an element that is NULL, beyond `min` or
    `max` or, for an int64, no integer of up to 24 bits; and a whole row whose list is longer than `length`, unless
    `longer` says which part of it counts.
    """
    lengths, present = _lengths(column)
    elements = _elements(column, np.float64)
    wrong = ~np.isfinite(elements)
    if how.encode == "int64":
        wrong |= (elements != np.trunc(elements)) | (np.abs(elements) > EXACT)
    if how.min is not None:
        wrong |= elements < how.min
    if how.max is not None:
        wrong |= elements > how.max
    with np.errstate(over="ignore", invalid="ignore"):
        values = elements.astype(np.float32)
    values[wrong] = np.inf
    out[:] = how.pad
    _place(values, lengths, how, out)
    if how.longer == "quarantine":
        out[lengths > how.length] = np.inf
    if how.null is None:
        out[~present] = np.nan


def words(column: pa.Array, how: PaddedList) -> NDArray[np.uint32]:
    """Returns uint32 (rows, 1 + length): the number of elements, and the bits of those that the model takes, rounded.

    Unlike in the matrix, what fills a list up is told apart from an element of the same value.
    """
    lengths, present = _lengths(column)
    elements = np.zeros((len(column), how.length), np.float32)
    _place(_elements(column, np.float32), lengths, how, elements)
    return np.column_stack([np.where(present, lengths + 1, 0).astype(np.uint32), rounding.to_bits(elements)])


def _lengths(column: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Returns the number of elements of each list, 0 for NULL, and whether there is a list: both (rows,)."""
    present: NDArray[np.bool_] = column.is_valid().to_numpy(zero_copy_only=False)
    lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    return np.where(present, lengths, 0), present


def _elements(column: pa.Array, kind: type[Any]) -> NDArray[Any]:
    """Returns the elements of all lists one after the other, with NULL as NaN."""
    elements = column.drop_null().flatten()
    values = np.empty(len(elements), kind)
    with np.errstate(over="ignore", invalid="ignore"):
        rounding.put(elements, values)
    return values


def _place(values: NDArray[np.float32], lengths: NDArray[np.int64], how: PaddedList, out: NDArray[np.float32]) -> None:
    """Puts the elements of each list, or those that count of a longer one, at its side of `out`."""
    row = np.repeat(np.arange(len(lengths)), lengths)
    at = np.arange(len(values)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    if how.longer == "last":
        at -= np.maximum(lengths - how.length, 0)[row]
    if how.side == "left":
        at += np.maximum(how.length - lengths, 0)[row]
    kept = (at >= 0) & (at < how.length)
    out[row[kept], at[kept]] = values[kept]
