"""Runs slices of a matrix through a model on a CUDA device, so that copies and arithmetic overlap.

Each scoring thread has two lanes. A lane is a stream, with pinned memory for one slice and its results. While the
device scores the slice of one lane, the next slice is copied into the other. The tensors of a lane are allocated and
used only on its stream, so that the caching allocator never reuses their memory too early; pinned memory is reused only
after the event that follows the copy from or into it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch

from pipeline.machine import usable_cores
from pipeline.model.limits import Limits, values_of_device

LANES = 2
Compute = Callable[[torch.Tensor], Sequence[torch.Tensor]]


class Busy:
    """Measures how long the device is busy with forward passes, by events before and after each pass, in all threads.

    A pass counts from its first operation to its last, including gaps in which the device waits for the next operation.
    """

    def __init__(self, device: torch.device) -> None:
        self._lock = threading.Lock()
        self._spans: list[tuple[float, float]] = []
        self._base = _event(timing=True)
        self._base.record(torch.cuda.default_stream(device))
        self._base.synchronize()

    def add(self, began: torch.cuda.Event, ended: torch.cuda.Event) -> None:
        """Adds a pass, given two events that have completed."""
        with self._lock:
            start = self._base.elapsed_time(began)  # float32: precise to 0.25 ms after one hour
            self._spans.append((start, start + began.elapsed_time(ended)))

    def clear(self) -> None:
        with self._lock:
            self._spans.clear()

    def seconds(self) -> float:
        """Returns the time, in seconds, during which at least one pass was running."""
        with self._lock:
            return covered(self._spans) / 1000


def covered(spans: Sequence[tuple[float, float]]) -> float:
    """Returns the total length covered by spans (start, end), which may overlap and be in any order."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


@dataclass(frozen=True)
class _Slice:
    """A slice that a lane has started and not yet finished."""

    start: int
    rows: int
    results: tuple[torch.Tensor, ...]
    """Results in pinned memory, with rows as the last axis; valid once `done` has completed."""
    began: torch.cuda.Event
    ended: torch.cuda.Event
    done: torch.cuda.Event


class Lane:
    """One stream of one thread. Its pinned memory grows to the size of the largest slice and is kept."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's own
        self._stream.wait_stream(torch.cuda.default_stream(device))  # it copied the model to the device
        self._pinned: dict[object, torch.Tensor] = {}
        self._begun: _Slice | None = None

    def begin(self, part: torch.Tensor, start: int, compute: Compute) -> None:
        """Starts scoring a slice whose first row is `start`, and returns before it is scored. The lane must be empty.

        Raises what `compute` raises, notably torch.cuda.OutOfMemoryError; the lane is empty then.
        """
        assert self._begun is None
        by_columns = part.stride(0) < part.stride(1)
        lying = part.t() if by_columns else part  # copied as it lies in memory; the device transposes faster
        given = self._memory("given", lying.shape, part.dtype).copy_(lying)
        began, ended, done = _event(timing=True), _event(timing=True), _event()
        with torch.cuda.stream(self._stream):
            try:
                own = given.to(self._device, non_blocking=True)
                own = own.t().contiguous() if by_columns else own  # (rows, columns)
                began.record()
                scored = compute(own)
                ended.record()
                results = tuple(self._back(index, values) for index, values in enumerate(scored))
                done.record()
            except BaseException:
                self._stream.synchronize()  # the stream may still be reading from pinned memory
                raise
        self._begun = _Slice(start, len(part), results, began, ended, done)

    def finish(self, results: Sequence[torch.Tensor], busy: Busy) -> None:
        """Waits for the slice in progress, if any, and copies its results to their rows in `results`."""
        if (begun := self._begun) is None:
            return
        self._begun = None
        begun.done.synchronize()
        for result, values in zip(results, begun.results, strict=True):
            result[..., begun.start : begun.start + begun.rows] = values
        busy.add(begun.began, begun.ended)

    def drop(self) -> None:
        """Discards the slice in progress, after an error elsewhere."""
        self._begun = None
        self._stream.synchronize()

    def _back(self, index: int, values: torch.Tensor) -> torch.Tensor:
        """Starts copying a result into pinned memory; makes it contiguous first, so that it is one copy."""
        return self._memory(index, values.shape, values.dtype).copy_(values.contiguous(), non_blocking=True)

    def _memory(self, name: object, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
        """Returns pinned memory of a shape; reuses the previous buffer if it is large enough."""
        kept = self._pinned.get((name, dtype))
        if kept is None or kept.numel() < shape.numel():
            kept = self._pinned[name, dtype] = torch.empty(shape.numel(), dtype=dtype, pin_memory=True)
        return kept[: shape.numel()].view(shape)


class Lanes:
    """The lanes of all threads that use one model."""

    def __init__(self, device: str, compute: Compute, limits: Limits) -> None:
        """`compute` maps a slice on the device to the tensors to store, with rows as the last axis."""
        self.busy = Busy(torch.device(device))
        self._device, self._compute, self._limits = torch.device(device), compute, limits
        self._of_thread = threading.local()

    def fill(self, results: Sequence[torch.Tensor], matrix: torch.Tensor, batch_rows: int) -> None:
        """Scores a matrix slice by slice into `results`. A slice too large for the memory is halved and retried.

        Raises ModelError if a single row is too large.
        """
        lanes: tuple[Lane, ...] | None = getattr(self._of_thread, "lanes", None)
        if lanes is None:
            lanes = self._of_thread.lanes = tuple(Lane(self._device) for _ in range(LANES))
        try:
            self._fill(lanes, results, matrix, batch_rows)
        except BaseException:
            for lane in lanes:
                with suppress(RuntimeError):  # every call fails on a lost device; keep the first error
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
            if self._try_begin(lane, part, start):
                start, turn = start + len(part), turn + 1
                continue
            for other in lanes:  # frees the memory that they hold
                other.finish(results, self.busy)
            self._limits.halve(len(part))
        for lane in lanes:
            lane.finish(results, self.busy)

    def _try_begin(self, lane: Lane, part: torch.Tensor, start: int) -> bool:
        """Returns False if memory ran out. A separate function, so that the error and its tensors are released."""
        try:
            lane.begin(part, start, self._compute)
        except torch.cuda.OutOfMemoryError as error:
            self._limits.check_fits(len(part), error)
            return False
        return True


def values_at_once(device: str) -> int:
    """Returns how many values a layer may return for a slice, given the memory of a device and the scoring threads."""
    memory: int = torch.cuda.get_device_properties(device).total_memory
    return values_of_device(memory, usable_cores(), LANES)


def _event(*, timing: bool = False) -> torch.cuda.Event:
    """Returns an event; waiting for an event without timing blocks instead of spinning on a core."""
    return torch.cuda.Event(enable_timing=timing, blocking=not timing)  # type: ignore[no-untyped-call]  # torch's own
