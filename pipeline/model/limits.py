"""How many rows go through a model at a time at most: what its task and its file allow, and what the memory does."""

from __future__ import annotations

from pipeline.errors import ModelError


class Limits:
    """Shared by all threads that score with one model: what did not fit for one does not for another."""

    def __init__(self, most_rows: int, device: str) -> None:
        self.most_rows, self._device = most_rows, device

    def halve(self, rows: int) -> None:
        """Is told that so many rows were too many."""
        self.most_rows = min(max(1, rows // 2), self.most_rows)

    def check_fits(self, rows: int, error: BaseException) -> None:
        """Raises ModelError if it was a single row that did not fit."""
        if rows == 1:
            raise ModelError(
                "the device has not the memory to score a single row",
                where=self._device,
                got=str(error).splitlines()[0],
                next_step="end what else uses it, or set LAKESCORE_DEVICE=cpu",
            ) from error
