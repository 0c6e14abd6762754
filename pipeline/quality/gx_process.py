"""The process in which Great Expectations works for a command: `evaluating.py` starts it, and talks to it.

Messages are pickled, as `multiprocessing` does: both ends are this program's own, and nobody else has the pipe.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
import threading
import time
import traceback
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from multiprocessing.connection import Connection as Channel
from typing import Any

import duckdb

from pipeline.startup import GC_THRESHOLD

RARE = frozenset({"altair", "scipy.special", "scipy.stats"})
"""Modules that Great Expectations imports for a few expectations and for its own reports; together they take as long as
all the rest. They are imported once somebody looks into them."""
ABSENT = ("boto3", "botocore", "google", "psycopg2")
"""Packages that Great Expectations does without if they are not installed: they read data, which this process never
does. Hiding them saves 12% of its import."""


class _Lazily(PathFinder):
    @classmethod
    def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        spec = super().find_spec(fullname, path, target) if fullname in RARE else None
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec


class Elsewhere:
    """A connection of DuckDB in the process at the other end, as far as `gx_dialect` needs one."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._rows: list[tuple[Any, ...]] = []
        self.description: list[tuple[Any, ...]] = []

    def execute(self, text: str, parameters: list[Any]) -> None:
        self._channel.send(("execute", text, parameters))
        kind, first, second = self._channel.recv()
        if kind == "error":
            raise getattr(duckdb, first, duckdb.Error)(second)
        self.description = [(name, None, None, None, None, None, None) for name in first]
        self._rows = second

    def fetchall(self) -> list[tuple[Any, ...]]:
        return self._rows


def main() -> None:
    """Evaluates rules until the other end is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to both; the command decides
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    channel = Channel(int(sys.argv[1]))
    try:
        import_ahead()
        from pipeline.quality import gx_engine

        channel.send(("ready", time.process_time()))
        while True:
            view, rules, samples = channel.recv()
            findings = gx_engine.evaluate(Elsewhere(channel), view, rules, samples=samples)
            channel.send(("done", findings))
    except (EOFError, ConnectionError):
        return
    except Exception as error:  # noqa: BLE001 - whatever it is, the command must hear of it
        traceback.print_exc()
        channel.send(("failed", f"{type(error).__name__}: {error}"))


def import_ahead() -> None:
    """Imports Great Expectations, without what it does not need here."""
    sys.meta_path.insert(0, _Lazily)
    for name in ABSENT:
        sys.modules[name] = None  # type: ignore[assignment] # Python then says that it is not found
    gc.disable()  # the import makes a million objects, none of them garbage: 12% of its time
    importlib.import_module("pipeline.quality.gx_engine")
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    gc.enable()


def _end_with_stdin() -> None:
    """Ends this process once the command's is gone, also in the middle of an import."""
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    main()
