"""Fast start and exit of a process that runs one command. Each trick here was measured alone and saves at least 5%.

The figures are wall time of a whole process that scores 5M rows for the first time, on two cores: without validation,
profile, drift and report (3.0 s), and with them (8.2 s).
"""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import sys
from importlib.abc import MetaPathFinder
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from pipeline.context import Context

SWITCH_INTERVAL_S = 0.0005
"""Time after which a thread lets another one run Python. With the default of 5 ms, every call into DuckDB or numpy is
followed by such a wait while torch is being imported: 9% of the short run, nothing of the long one."""

GC_THRESHOLD = 100_000
"""Number of new objects after which garbage is collected, instead of 700. Imports create a million objects, none of
them garbage: 10% of the long run, nothing of the short one."""


OF_PAGES = ("matplotlib.backends.backend_svg", "matplotlib.figure", "pipeline.report.pages")
"""Modules that the pages need, in the order in which they are imported."""

_owned = False
"""Whether this process runs nothing but one command."""


def is_owned() -> bool:
    """Tells whether this process runs nothing but one command."""
    return _owned


def configure() -> None:
    """Prepares this process, which runs nothing but one command."""
    global _owned  # noqa: PLW0603 - there is one process
    _owned = True
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.set_threshold(GC_THRESHOLD)


def import_ahead(ctx: Context, *, scores: bool) -> None:
    """Imports in the background what the next stages need and what takes seconds: torch 2, Great Expectations 3.

    The latter in a process of its own, if this one is owned (`quality/evaluating.py`). `scores` tells whether rows will
    be scored. If an import fails, the stage that needs it raises the error itself.
    """
    from concurrent.futures import ThreadPoolExecutor

    folder = ctx.job.folder
    suites = ctx.job.quality.enabled and any((folder / f"{side}.json").is_file() for side in ("input", "output"))
    if _owned:
        _hide_pandas()
    pool = ThreadPoolExecutor(1, thread_name_prefix="import")
    if suites:
        quality = importlib.import_module("pipeline.quality.evaluating")
        quality.start() if _owned else pool.submit(quality.start)
    if scores and "torch" not in sys.modules:
        pool.submit(importlib.import_module, "torch")
    if suites and _owned and ctx.job.report.enabled:  # while this process waits for the other one
        for name in OF_PAGES:
            pool.submit(importlib.import_module, name)
    pool.shutdown(wait=False)


def _hide_pandas() -> None:
    """Keeps pyarrow from importing pandas with the first value that it converts; saves 7% of the short run.

    pyarrow looks for pandas only once. Nothing in this process needs it: it comes with Great Expectations.
    """
    if "pandas" in sys.modules:
        return
    import pyarrow as pa

    hidden = _Hidden()
    sys.meta_path.insert(0, hidden)
    try:
        pa.scalar(0)
    finally:
        sys.meta_path.remove(hidden)


class _Hidden(MetaPathFinder):
    def find_spec(self, fullname: str, _path: object, _target: object = None) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError(fullname)


def leave(ended: SystemExit) -> NoReturn:
    """Ends the process without tearing down the interpreter: 9% of the short run, 16% of the long one.

    A thread that is still working, such as an import after an error elsewhere, is cut off as by a kill; a run survives
    that.
    """
    if not isinstance(ended.code, int):
        raise ended
    atexit._run_exitfuncs()  # noqa: SLF001 - those of logging, DuckDB, telemetry; multiprocessing calls it, too
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except (OSError, ValueError):
        raise ended from None  # a closed pipe or stream: the interpreter has its own way to report it
    os._exit(ended.code)
