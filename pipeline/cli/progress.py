"""How far a run is: a bar on a terminal, a log line now and then otherwise. Both on stderr."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.context import Progress, silent

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
    """A line at the end of each stage, and every `LINE_EVERY_S` seconds; a total of 0 is one that nobody knows."""
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
    from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]} rows/s"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks or bar.tasks[tasks[stage]].completed > done:
                tasks[stage] = bar.add_task(stage, total=total, speed="")
            elapsed = bar.tasks[tasks[stage]].elapsed or 0.0
            speed = f"{done / elapsed:,.0f}" if elapsed > 0 else ""
            bar.update(tasks[stage], completed=done, total=total or None, speed=speed)

        yield show
