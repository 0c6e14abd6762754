"""The maximum number of rows per forward pass, as set by the model's task, its file and the available memory."""

from __future__ import annotations

from pipeline.errors import ModelError

BYTES_PER_VALUE = 4 * 4
"""Device memory for one value of a slice's widest result: float32, and three more like it while it is computed."""


def values_of_device(memory: int, threads: int, lanes: int) -> int:
    """Returns how many values the widest result of a slice may have, so that all threads' slices take half a device.

    `memory` is that of the device in bytes; each thread has `lanes` slices there at once. A slice that does not fit
    nevertheless is halved.
    """
    return max(1, memory // 2 // (BYTES_PER_VALUE * threads * lanes))


class Limits:
    """The limit, shared by all threads that use one model: a slice too large for one is too large for all."""

    def __init__(self, most_rows: int, device: str) -> None:
        self.most_rows, self._device = most_rows, device

    def halve(self, rows: int) -> None:
        """Lowers the limit to half of `rows`, which did not fit into memory."""
        self.most_rows = min(max(1, rows // 2), self.most_rows)

    def check_fits(self, rows: int, error: BaseException) -> None:
        """Raises ModelError if even a single row did not fit."""
        if rows == 1:
            raise ModelError(
                "the device does not have enough memory to score a single row",
                where=self._device,
                got=str(error).splitlines()[0],
                next_step="stop other programs that use it, or set LAKESCORE_DEVICE=cpu",
            ) from error
