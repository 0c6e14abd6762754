"""Runs tasks in processes of this machine: Python's lock does not keep one from another."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, closing

from pipeline.engines.contract import ATTEMPTS, TaskFunction
from pipeline.errors import WorkerLost


class Processes(AbstractContextManager["Processes"]):
    """Its processes stay for the next `map`, and keep what they have imported."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._pool: ProcessPoolExecutor | None = None

    def __exit__(self, *_error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def map(self, function: TaskFunction, tasks: Sequence[str]) -> Iterator[tuple[int, str]]:
        """Fulfils the contract of `Engine`. If a process dies, the tasks without a result start again in new ones."""
        left = dict(enumerate(tasks))
        for _ in range(ATTEMPTS):
            if not left:
                return
            try:
                with closing(self._map(function, left)) as results:
                    for number, result in results:
                        del left[number]
                        yield number, result
            except BrokenProcessPool:
                continue
        if left:
            raise WorkerLost(
                f"processes of the run died in {ATTEMPTS} attempts",
                expected=f"{len(tasks)} results",
                got=f"{len(tasks) - len(left)} results",
                next_step="look for the kernel's out-of-memory messages; give the run fewer threads, or more buckets",
            )

    def _map(self, function: TaskFunction, tasks: dict[int, str]) -> Generator[tuple[int, str]]:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.slots, context, initializer=_prepare)
        try:
            numbers = {self._pool.submit(function, task): number for number, task in tasks.items()}
            for done in as_completed(numbers):
                yield numbers[done], done.result()
        except BaseException:
            self._end()
            raise

    def _end(self) -> None:
        """Ends the processes at once, whatever they are doing."""
        assert self._pool is not None
        running = list((self._pool._processes or {}).values())  # noqa: SLF001 - terminate_workers() from Python 3.14
        for process in running:
            process.terminate()
        self._pool.shutdown(cancel_futures=True)
        self._pool = None


def _prepare() -> None:
    """Leaves Ctrl-C, which the terminal sends to all, to the parent, and ends this process if the parent dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    from multiprocessing.connection import wait

    wait([sentinel])
    os._exit(1)
