"""How slices of a matrix go through a model on a CUDA device, so that copies and arithmetic overlap.

Each thread that scores has two lanes: a stream, and pinned memory for a slice and for what is made of it. While the
device scores the slice of one lane, the next slice is copied into the other. Tensors of a lane are made and used on its
stream alone, so that the caching allocator never gives their memory to another one too early; pinned memory is used
again only after the event behind the copy from it, or into it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch

from pipeline.model.limits import Limits

LANES = 2
Compute = Callable[[torch.Tensor], Sequence[torch.Tensor]]


class Busy:
    """When the device was at work for us, by events before and after each forward pass; of any thread.

    A pass counts from its first operation to its last, with the gaps in which the device waited for the next one.
    """

    def __init__(self, device: torch.device) -> None:
        self._lock = threading.Lock()
        self._spans: list[tuple[float, float]] = []
        self._base = _event(timing=True)
        self._base.record(torch.cuda.default_stream(device))
        self._base.synchronize()

    def add(self, began: torch.cuda.Event, ended: torch.cuda.Event) -> None:
        """Takes two events that have happened."""
        with self._lock:
            start = self._base.elapsed_time(began)  # float32: after an hour to a quarter of a millisecond
            self._spans.append((start, start + began.elapsed_time(ended)))

    def clear(self) -> None:
        with self._lock:
            self._spans.clear()

    def seconds(self) -> float:
        """Returns the time in which at least one pass was at work."""
        with self._lock:
            return covered(self._spans) / 1000


def covered(spans: Sequence[tuple[float, float]]) -> float:
    """Returns how much of a line is covered by spans (start, end), which may overlap and stand in any order."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


@dataclass(frozen=True)
class _Slice:
    """What a lane has begun, and has not given back yet."""

    start: int
    rows: int
    results: tuple[torch.Tensor, ...]
    """In pinned memory, the rows as last axis; there once `done` has happened."""
    began: torch.cuda.Event
    ended: torch.cuda.Event
    done: torch.cuda.Event


class Lane:
    """One stream of one thread. Its pinned memory grows to what the largest slice needs, and stays."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's own
        self._stream.wait_stream(torch.cuda.default_stream(device))  # on which the model was brought there
        self._pinned: dict[object, torch.Tensor] = {}
        self._begun: _Slice | None = None

    def begin(self, part: torch.Tensor, start: int, compute: Compute) -> None:
        """Starts on a slice, the rows from `start` on, and returns before it is scored. The lane must be empty.

        Raises what `compute` raises, torch.cuda.OutOfMemoryError above all; the lane is empty then.
        """
        assert self._begun is None
        given = self._memory("given", part.shape, part.dtype).copy_(part)
        began, ended, done = _event(timing=True), _event(timing=True), _event()
        with torch.cuda.stream(self._stream):
            try:
                own = given.to(self._device, non_blocking=True)  # (rows, columns)
                began.record()
                scored = compute(own)
                ended.record()
                results = tuple(self._back(index, values) for index, values in enumerate(scored))
                done.record()
            except BaseException:
                self._stream.synchronize()  # it may still read from the pinned memory
                raise
        self._begun = _Slice(start, len(part), results, began, ended, done)

    def finish(self, results: Sequence[torch.Tensor], busy: Busy) -> None:
        """Waits for the slice that was begun, if any, and puts its results in their place."""
        if (begun := self._begun) is None:
            return
        self._begun = None
        begun.done.synchronize()
        for result, values in zip(results, begun.results, strict=True):
            result[..., begun.start : begun.start + begun.rows] = values
        busy.add(begun.began, begun.ended)

    def drop(self) -> None:
        """Forgets the slice that was begun, after an error elsewhere."""
        self._begun = None
        self._stream.synchronize()

    def _back(self, index: int, values: torch.Tensor) -> torch.Tensor:
        """Starts copying a result into pinned memory; only what is contiguous on both sides is copied in one go."""
        return self._memory(index, values.shape, values.dtype).copy_(values.contiguous(), non_blocking=True)

    def _memory(self, name: object, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
        """Returns pinned memory of a shape: the same as last time, if that was large enough."""
        kept = self._pinned.get((name, dtype))
        if kept is None or kept.numel() < shape.numel():
            kept = self._pinned[name, dtype] = torch.empty(shape.numel(), dtype=dtype, pin_memory=True)
        return kept[: shape.numel()].view(shape)


class Lanes:
    """The lanes of all threads that score with one model."""

    def __init__(self, device: str, compute: Compute, limits: Limits) -> None:
        """`compute` gives what is to be stored of a slice, the rows as last axis, from its matrix on the device."""
        self.busy = Busy(torch.device(device))
        self._device, self._compute, self._limits = torch.device(device), compute, limits
        self._of_thread = threading.local()

    def fill(self, results: Sequence[torch.Tensor], matrix: torch.Tensor, batch_rows: int) -> None:
        """Scores a matrix slice by slice into the results. A slice too large for the memory is halved and tried again.

        Raises ModelError if a single row is too large.
        """
        lanes: tuple[Lane, ...] | None = getattr(self._of_thread, "lanes", None)
        if lanes is None:
            lanes = self._of_thread.lanes = tuple(Lane(self._device) for _ in range(LANES))
        try:
            self._fill(lanes, results, matrix, batch_rows)
        except BaseException:
            for lane in lanes:
                with suppress(RuntimeError):  # of a device that is lost, each call fails: the first error says why
                    lane.drop()
            raise

    def _fill(
        self, lanes: tuple[Lane, ...], results: Sequence[torch.Tensor], matrix: torch.Tensor, batch_rows: int
    ) -> None:
        start = turn = 0
        while start < len(matrix):
            lane = lanes[turn % len(lanes)]
            lane.finish(results, self.busy)
            part = matrix[start : start + min(batch_rows, self._limits.most_rows)]
            if self._begins(lane, part, start):
                start, turn = start + len(part), turn + 1
                continue
            for other in lanes:  # what they hold is free then
                other.finish(results, self.busy)
            self._limits.halve(len(part))
        for lane in lanes:
            lane.finish(results, self.busy)

    def _begins(self, lane: Lane, part: torch.Tensor, start: int) -> bool:
        """Returns False if the memory is not enough; the error, which holds on to tensors, is gone by then."""
        try:
            lane.begin(part, start, self._compute)
        except torch.cuda.OutOfMemoryError as error:
            self._limits.check_fits(len(part), error)
            return False
        return True


def _event(*, timing: bool = False) -> torch.cuda.Event:
    """Makes an event; a thread that waits for one without timing leaves its core to the others."""
    return torch.cuda.Event(enable_timing=timing, blocking=not timing)  # type: ignore[no-untyped-call]  # torch's own
