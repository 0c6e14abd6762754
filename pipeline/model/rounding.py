"""Numbers as float32, or as doubles: rounded once, whatever their type, and whether or not their batch has a NULL."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray


NAN_BITS = np.uint32(0x7FC00000)


def put(column: pa.Array, out: NDArray[np.float32] | NDArray[np.float64]) -> None:
    """Fills `out`, (rows,), with NULL as NaN, and with infinity for what is too large."""
    if column.null_count:
        from pyarrow import types

        if types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if types.is_integer(column.type):  # to_numpy would return doubles
            out[:] = column.fill_null(0).to_numpy(zero_copy_only=False)
            out[column.is_null().to_numpy(zero_copy_only=False)] = np.nan
            return
    out[:] = column.to_numpy(zero_copy_only=False)


def to_bits(values: NDArray[np.float32] | NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Returns the bits of float32 values, in which all NaN are one value, and -0.0 is 0.0; bits stay as they are."""
    if values.dtype == np.uint32:
        return values.view(np.uint32)
    values = values + np.float32(0.0)  # a copy; -0.0 + 0.0 is 0.0
    bits = values.view(np.uint32)
    bits[np.isnan(values)] = NAN_BITS
    return bits
