"""The buckets of a `hash` input. They are part of what a model was trained with, so none of this may ever change.

    modulo   value % buckets, for integers; never negative, as in Python
    crc32    zlib.crc32(text) % buckets
    md5      int(hashlib.md5(text).hexdigest(), 16) % buckets

`text` is the value in UTF-8; of an integer, its decimal digits.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pyarrow import types

from pipeline.errors import QualityStop

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.model.inputs import Hash

OF_TEXT: dict[str, Callable[[bytes], int]] = {
    "crc32": zlib.crc32,
    "md5": lambda text: int.from_bytes(hashlib.md5(text, usedforsecurity=False).digest(), "big"),
}


def buckets(column: pa.Array, how: Hash, name: str) -> NDArray[np.float32]:
    """Returns the number of each value's bucket, (rows,), exact up to MOST_BUCKETS; NULL is NaN.

    Raises QualityStop for values that are neither integers nor text, and for text with `modulo`.
    """
    check_type(column, name, text=how.algorithm != "modulo")
    if how.null is not None:
        column = column.fill_null(pa.scalar(how.null).cast(column.type))
    missing = column.is_null().to_numpy(zero_copy_only=False)
    if how.algorithm == "modulo":
        found = (whole(column) % how.buckets).astype(np.float32)
    else:
        compute = OF_TEXT[how.algorithm]
        encoded = column.dictionary_encode()
        known = [compute(str(value).encode()) % how.buckets for value in encoded.dictionary.to_pylist()]
        found = np.array([0, *known], np.float32)[encoded.indices.fill_null(-1).to_numpy() + 1]
    found[missing] = np.nan
    return found


def check_type(column: pa.Array, name: str, *, text: bool) -> None:
    """Raises QualityStop unless a column has integers, or text where that is allowed.

    Columns of several files may together have another type than each of them: unsigned and signed integers, for
    example, together are doubles, which have lost digits.
    """
    kind = column.type
    is_text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    if not (types.is_integer(kind) or types.is_null(kind) or (text and is_text)):
        raise QualityStop(
            f"feature {name} has values of another type than its kind of input takes",
            expected="integers of up to 64 bits" + (", or text" if text else ""),
            got=str(kind),
            next_step="write such values, or cast the column in the job's SELECT",
        )


def whole(column: pa.Array) -> NDArray[np.int64] | NDArray[np.uint64]:
    """Returns integers of any width as 64 bits, (rows,); NULL is 0."""
    wide = pa.uint64() if types.is_unsigned_integer(column.type) else pa.int64()
    found: NDArray[np.int64] = column.fill_null(0).cast(wide).to_numpy()
    return found
