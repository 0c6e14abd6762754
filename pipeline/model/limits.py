"""The maximum number of rows per forward pass, as set by the model's task, its file and the available memory."""

from __future__ import annotations

from pipeline.errors import ModelError


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
