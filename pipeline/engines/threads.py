"""Runs tasks in threads of this process. They share its memory, so tasks and results may be of any type."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager
from typing import Any


class Threads(AbstractContextManager["Threads"]):
    def __init__(self, slots: int, stop: Callable[[], None] = lambda: None, name: str = "task") -> None:
        """`stop` asks running tasks to return early: a thread cannot be ended from outside. `name` is the threads'."""
        self.slots, self._stop, self._name = slots, stop, name

    def __exit__(self, *_error: object) -> None:
        """Does nothing: threads end with each `map`."""

    def map(self, function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Fulfils the contract of `Engine`; after an error or a cancellation, waits for the tasks that are running."""
        with ThreadPoolExecutor(self.slots, thread_name_prefix=self._name) as pool:
            numbers = {pool.submit(function, task): number for number, task in enumerate(tasks)}
            try:
                for done in as_completed(numbers):
                    yield numbers[done], done.result()
            except BaseException:
                for each in numbers:
                    each.cancel()
                self._stop()
                raise
