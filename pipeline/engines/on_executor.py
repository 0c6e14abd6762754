"""Runs a task in a Python process of a Spark executor.

Spark sends this module by value, so that it runs where Lakescore is not installed, too, and can say so there. Hence it
imports nothing of the package but in functions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

RESULT = "result"


def run_batches(function: str, attempts: int, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yields the answers to the tasks of batches with one column of text.

    An answer is a JSON object: `result`, or `error`, or `lacks`: the module that this machine does not have. `attempts`
    is the number of times that Spark starts a task that raises.
    """
    import pyarrow as pa

    for batch in batches:
        answers = [answer(function, attempts, text) for text in batch.column(0).to_pylist()]
        yield pa.RecordBatch.from_pydict({RESULT: answers}, pa.schema([(RESULT, pa.string())]))


def answer(function: str, attempts: int, text: str) -> str:
    """Runs a task. Raises what another attempt may not meet again, except in the last attempt."""
    import importlib
    import socket
    import sys

    module, _, name = function.rpartition(".")
    try:
        work = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        where = f"{socket.gethostname()}, {sys.executable} {sys.version.split()[0]}"
        return json.dumps({"lacks": error.name, "where": where})
    try:
        return json.dumps({RESULT: work(text)})
    except Exception as error:
        from pyspark import TaskContext

        task = TaskContext.get()
        last = task is None or task.attemptNumber() + 1 >= attempts
        if not last and getattr(error, "transient", True):
            raise
        return json.dumps({"error": described(error)})


def described(error: Exception) -> dict[str, Any]:
    """Returns an error as a JSON object, which `errors_from` of `spark.py` reads."""
    from pipeline.errors import LakescoreError

    kind = type(error)
    if not isinstance(error, LakescoreError):
        return {"module": kind.__module__, "name": kind.__qualname__, "text": str(error)}
    fields = {name: getattr(error, name) for name in ("what", "where", "expected", "got", "next_step")}
    checks = [check.model_dump(mode="json") for check in getattr(error, "checks", ())]
    return {"module": kind.__module__, "name": kind.__qualname__, "fields": fields, "checks": checks}
