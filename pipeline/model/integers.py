"""int64 values in the float32 matrix: taken apart into three exact pieces there, put together again for the model.

So everything between the rows and the model (triage, batches, the GPU) has to know one kind of matrix only. A piece has
at most 22 bits, and float32 holds every integer of up to 24 bits exactly. The index of a category or a bucket is a
single piece.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    import torch
    from numpy.typing import NDArray

BITS = 21
LOW = 2**BITS - 1


def split(values: NDArray[np.int64], out: NDArray[np.float32]) -> None:
    """Fills `out`, float32 (rows, PIECES), from int64 (rows,)."""
    out[:, 0] = values >> (2 * BITS)
    out[:, 1] = (values >> BITS) & LOW
    out[:, 2] = values & LOW


def joined(pieces: Iterable[torch.Tensor]) -> torch.Tensor:
    """Returns int64 (rows,) from the PIECES of `split`, or from a single one."""
    found, *lower = (piece.long() for piece in pieces)
    for piece in lower:
        found = (found << BITS) | piece
    return found
