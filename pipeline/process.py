"""What a process of our own does to start and to end quickly: torch and pandas take seconds where nobody looks."""

from __future__ import annotations

import atexit
import gc
import importlib
import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from pipeline.context import Context

TURN_S = 0.0005
"""After which a thread gives way to another that waits for the interpreter. By default that is ten times as long:
while torch is imported, whoever calls DuckDB or numpy would wait so long after each call."""

GARBAGE = 100_000
"""New objects after which garbage is looked for, instead of 700: imports make a million, and none of them is any."""

_own = False


def own() -> None:
    """Says that this process does nothing but one command of ours."""
    global _own  # noqa: PLW0603 - there is one process
    _own = True
    sys.setswitchinterval(TURN_S)
    gc.set_threshold(GARBAGE)


def to_import(ctx: Context, *, scores: bool) -> list[str]:
    """Returns the modules that the next stages will need, and that take seconds: torch two, Great Expectations four.

    Where these do not need pandas, and the process is our own, it also keeps pyarrow from importing that.
    """
    folder = ctx.job.folder
    suites = ctx.job.quality.enabled and any((folder / f"{side}.json").is_file() for side in ("input", "output"))
    if _own and not suites:
        _without_pandas()
    wanted = [*(["pipeline.quality.gx_engine"] if suites else []), *(["torch"] if scores else [])]
    return [module for module in wanted if module not in sys.modules]


def import_meanwhile(modules: Sequence[str]) -> None:
    """Imports them in the background. If one fails, the stage that needs it meets the error itself."""
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(1, thread_name_prefix="import")
    for module in modules:
        pool.submit(importlib.import_module, module)
    pool.shutdown(wait=False)


def _without_pandas() -> None:
    """Keeps pyarrow from importing pandas, a third of a second, which it does with the first value that it converts.

    It looks for it once, and takes for granted then that there is none. pandas comes with Great Expectations.
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
    """Ends the process without taking the interpreter apart, which takes half a second with torch.

    A thread that is still at work, importing after an error elsewhere, is cut off, as by a kill: a run survives that.
    """
    if not isinstance(ended.code, int):
        raise ended
    atexit._run_exitfuncs()  # noqa: SLF001 - those of logging, DuckDB, telemetry; multiprocessing calls it, too
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except (OSError, ValueError):
        raise ended from None  # a pipe, or stream, that is closed: the interpreter has its own way to say so
    os._exit(ended.code)
