"""Runs tasks on an existing Spark cluster, by a driver in this process or by Spark Connect.

Each task is a Spark job with one row. So results come as soon as they are there, the first error is known at once, and
Spark does what it is good at: it finds a place for each task, and starts it again if an executor dies. It moves no rows
and runs no SQL.
"""

from __future__ import annotations

import builtins
import functools
import json
import logging
import os
import secrets
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from pipeline import errors
from pipeline.engines import on_executor
from pipeline.engines.contract import TaskFunction
from pipeline.errors import LakescoreError, QualityStop, UsageError, WorkerLost
from pipeline.records import CheckResult

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

log = logging.getLogger(__name__)

CONNECT = "sc://"
UNKNOWN_SLOTS = 16
"""Number of tasks at a time that is assumed of a Connect server, which does not tell how many cores it has."""
ASK_AGAIN_S = 0.5


class Spark(AbstractContextManager["Spark"]):
    """`address` is that of a master (`spark://host:7077`, `yarn`, `k8s://...`) or a Connect server (`sc://host`).

    Without one, it is what Spark itself is configured with: SPARK_REMOTE, or `spark-submit`.
    """

    def __init__(self, address: str | None) -> None:
        self.address = address or os.environ.get("SPARK_REMOTE")
        self._session, self._is_ours = _session(self.address)

    def __exit__(self, *_error: object) -> None:
        if self._is_ours:
            self._session.stop()

    @property
    def slots(self) -> int:
        if self._is_connect:
            return int(self._session.conf.get("spark.default.parallelism", str(UNKNOWN_SLOTS)) or UNKNOWN_SLOTS)
        return int(self._session.sparkContext.defaultParallelism)

    def map(self, function: TaskFunction, tasks: Sequence[str]) -> Iterator[tuple[int, str]]:
        """Fulfils the contract of `Engine`. Spark starts a task up to `spark.task.maxFailures` times, by default 4.

        Raises UsageError if an executor lacks a package.
        """
        if not tasks:
            return
        tag = f"lakescore-{secrets.token_hex(8)}"
        run = functools.partial(
            on_executor.run_batches, f"{function.__module__}.{function.__qualname__}", self._attempts()
        )
        with ThreadPoolExecutor(min(len(tasks), 2 * self.slots), thread_name_prefix="spark") as pool:
            numbers = {pool.submit(self._answer, run, task, tag): number for number, task in enumerate(tasks)}
            try:
                for done in as_completed(numbers):
                    yield numbers[done], _result(done.result())
            except BaseException:
                for each in numbers:
                    each.cancel()
                while wait(numbers, timeout=ASK_AGAIN_S).not_done:  # a job may begin just after it was asked to end
                    self._session.interruptTag(tag)
                raise

    def _answer(self, run: Any, task: str, tag: str) -> str:
        from py4j.protocol import Py4JError
        from pyspark.errors import PySparkException

        self._session.addTag(tag)  # of this thread
        try:
            rows = self._session.createDataFrame([(task,)], "task string").coalesce(1)
            (row,) = rows.mapInArrow(run, f"{on_executor.RESULT} string").collect()
        except (PySparkException, Py4JError) as error:
            raise _of_spark(error) from error
        return str(row[0])

    @property
    def _is_connect(self) -> bool:
        return bool(self.address and self.address.startswith(CONNECT))

    def _attempts(self) -> int:
        if self.address and self.address.startswith("local"):
            return 1
        return int(self._session.conf.get("spark.task.maxFailures", "4") or 4)


def _session(address: str | None) -> tuple[SparkSession, bool]:
    """Returns the session of this process, and whether it was made here."""
    warnings.filterwarnings("ignore", message="PySpark does not yet fully support pandas")  # it is not used here
    try:
        from pyspark import cloudpickle
        from pyspark.sql import SparkSession
    except ModuleNotFoundError as error:
        raise UsageError(
            f"a job with name = 'spark' needs the package {error.name}", next_step="pip install 'lakescore[spark]'"
        ) from None
    if address is None and "PYSPARK_GATEWAY_PORT" not in os.environ:
        raise UsageError(
            "no Spark cluster is named",
            expected="the address of a master or of a Connect server, such as spark://host:7077 or sc://host:15002",
            next_step="set LAKESCORE_SPARK, or start the run by spark-submit",
        )
    cloudpickle.register_pickle_by_value(on_executor)  # type: ignore[no-untyped-call]
    builder = SparkSession.builder.appName("lakescore")
    if address is not None and address.startswith(CONNECT):
        builder = builder.remote(address)
    else:
        builder = builder.config("spark.ui.showConsoleProgress", "false")
        builder = builder if address is None else builder.master(address)
    try:
        active = SparkSession.getActiveSession()
        with _same_interrupt():
            return builder.getOrCreate(), active is None
    except Exception as error:
        raise WorkerLost(
            "Spark cannot be reached",
            where=address and address.partition(";")[0],  # parameters may hold a token
            got=type(error).__name__ if address and ";" in address else _first_line(error),
            next_step="check the address and the cluster; docs/cluster.md",
        ) from error


@contextmanager
def _same_interrupt() -> Iterator[None]:
    """Keeps this process's own answer to Ctrl-C, which Spark's driver replaces."""
    before = signal.getsignal(signal.SIGINT)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, before)


def _result(answer: str) -> str:
    found = json.loads(answer)
    if on_executor.RESULT in found:
        return str(found[on_executor.RESULT])
    if "lacks" in found:
        raise UsageError(
            f"an executor lacks the package {found['lacks']}",
            where=found["where"],
            next_step="install Lakescore there, or let PYSPARK_PYTHON name a Python that has it; docs/cluster.md",
        )
    raise error_from(found["error"])


def error_from(found: dict[str, Any]) -> Exception:
    """Returns the error that `on_executor.described` has described; a RuntimeError for a class of another package."""
    kind = getattr(errors, found["name"], None) if found["module"] == errors.__name__ else None
    if isinstance(kind, type) and issubclass(kind, LakescoreError):
        error = kind(**found["fields"])
        if isinstance(error, QualityStop):
            error.checks = tuple(CheckResult.model_validate(check) for check in found["checks"])
        return error
    known = getattr(builtins, found["name"], None) if found["module"] == "builtins" else None
    if isinstance(known, type) and issubclass(known, Exception):
        return known(found.get("text"))
    return RuntimeError(f"{found['module']}.{found['name']}: {found.get('text')}")


def _of_spark(error: Exception) -> LakescoreError:
    """Translates an error of Spark itself."""
    text = str(error)
    if "PYTHON_VERSION_MISMATCH" in text or "Cannot run program" in text or "No module named" in text:
        lines = (
            line for line in text.splitlines() if "MISMATCH" in line or "Cannot run" in line or "No module" in line
        )
        return UsageError(
            "an executor cannot run Python as this process does",
            got=next(lines, None),
            next_step="let PYSPARK_PYTHON name a Python of the same version, with Lakescore, there; docs/cluster.md",
        )
    return WorkerLost(
        "Spark could not finish a task", got=_first_line(error), next_step="see the logs of Spark; the next run resumes"
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
