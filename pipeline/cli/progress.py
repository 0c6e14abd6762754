"""Progress of a run, on stderr: a bar on a terminal, otherwise occasional log lines."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipeline.cli.output import bytes_text
from pipeline.context import Progress, silent
from pipeline.machine import bytes_moved

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

log = logging.getLogger("lakescore")
LINE_EVERY_S = 10.0


@contextmanager
def progress(*, quiet: bool = False) -> Iterator[Progress]:
    if quiet:
        yield silent
    elif sys.stderr.isatty():
        with _bar() as show:
            yield show
    else:
        yield _lines()


def _lines() -> Progress:
    """Logs a line at the end of each stage and every `LINE_EVERY_S` seconds. A total of 0 means unknown."""
    started: dict[str, float] = {}
    last = time.monotonic()

    def show(stage: str, done: int, total: int) -> None:
        nonlocal last
        at = time.monotonic()
        begun = started.setdefault(stage, at)
        if (total and done >= total) or at - last >= LINE_EVERY_S:
            last = at
            of = f" of {total:,}" if total else ""
            speed = f", {done / (at - begun):,.0f} rows/s" if at > begun else ""
            log.info("%s: %s%s rows%s", stage, f"{done:,}", of, speed)

    return show


@contextmanager
def _bar() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[workers]}"),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        yield _Shown(bar)


class _Shown:
    """One line per stage: rows/s, bytes read and written since its start, and how its workers spend their time."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._tasks: dict[str, TaskID] = {}
        self._before = (0, 0)
        self._stage = ""

    def __call__(self, stage: str, done: int, total: int) -> None:
        bar = self._bar
        if stage not in self._tasks or bar.tasks[self._tasks[stage]].completed > done:
            self._tasks[stage] = bar.add_task(stage, total=total, speed="", workers="")
            self._before = bytes_moved() or (0, 0)
        self._stage = stage
        elapsed = bar.tasks[self._tasks[stage]].elapsed or 0.0
        speed = f"{done / elapsed:,.0f} rows/s" if elapsed > 0 else ""
        if (moved := bytes_moved()) is not None:
            read, written = (bytes_text(now - before) for now, before in zip(moved, self._before, strict=True))
            speed += f", {read} read, {written} written"
        bar.update(self._tasks[stage], completed=done, total=total or None, speed=speed)

    def workers(self, busy: Mapping[str, float]) -> None:
        text = ", ".join(f"{part} {share:.0%}" for part, share in busy.items())
        self._bar.update(self._tasks[self._stage], workers=text)
