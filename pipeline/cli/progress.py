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
    started = last = time.monotonic()

    def show(stage: str, done: int, total: int) -> None:
        nonlocal started, last
        at = time.monotonic()
        if done >= total or at - last >= LINE_EVERY_S:
            log.info("%s: %s of %s rows, %s rows/s", stage, f"{done:,}", f"{total:,}", f"{done / (at - started):,.0f}")
            last = at
        if done >= total:
            started = at

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
