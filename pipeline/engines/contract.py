"""The contract of engines: one verb. Every engine passes `EngineContract` in `tests/engines/test_contract.py`.

Tasks and results are text, and the function is found by its module and name, so that both can travel to another
machine. A task may be run more than once, also at the same time: it must write only where no other attempt writes, and
what counts is what it returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

TaskFunction = Callable[[str], str]
"""A function at the top of a module."""
ATTEMPTS = 3
"""Number of times that a task is started, if the process that runs it dies."""


class Engine(AbstractContextManager["Engine"], Protocol):
    """A context manager: what it has started ends with it."""

    @property
    def slots(self) -> int:
        """The number of tasks that can run at the same time."""

    def map(self, function: TaskFunction, tasks: Sequence[str]) -> Iterator[tuple[int, str]]:
        """Runs the function on every task, and yields each task's number and result as soon as it is done.

        The first error of a task is raised here with its own class, and ends the other tasks; so does closing the
        iterator. Raises WorkerLost if the process of a task has died `ATTEMPTS` times.
        """
