"""What the tests of engines let run elsewhere: at the top of a module, so that other processes can import it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pipeline
from pipeline.buckets.bucket import Bucket, score_bucket
from pipeline.errors import QualityStop, StorageUnavailable
from pipeline.records import CheckResult, Severity

CHECK = CheckResult(
    suite="model",
    name="golden_batch",
    expectation="guard",
    severity=Severity.critical,
    success=False,
    outcome="stopped",
)
TIMEOUT_S = 120


def doubled(task: str) -> str:
    return task * 2


def stopped_at_three(task: str) -> str:
    """Fails for the task `3`, once; the others wait for it to be cancelled."""
    if task == "3":
        error = QualityStop("bad data", where="here", expected="good data", got="bad data", next_step="look")
        error.checks = (CHECK,)
        raise error
    return task


def without_storage(task: str) -> str:
    raise StorageUnavailable("the disk is full", where=task)


def not_a_number(task: str) -> str:
    return str(int(task))


def note_and_wait(task: str) -> str:
    """Writes a file that says that the task has begun; the task `first` returns, any other waits."""
    folder, _, name = task.rpartition("/")
    (Path(folder) / f"{name}-{os.getpid()}").touch()
    began = time.monotonic()
    while name != "first" and not (Path(folder) / "over").exists():
        if time.monotonic() - began > TIMEOUT_S:
            raise TimeoutError
        time.sleep(0.01)
    return name


def killed_at_first(task: str) -> str:
    """Kills its own process, unless another attempt at the task has done so before."""
    try:
        Path(task).touch(exist_ok=False)
    except FileExistsError:
        return Path(task).name
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def where_the_package_is(_task: str) -> str:
    return str(pipeline.__file__)


def score_and_stall_once(task: str) -> str:
    """Scores a bucket; the first attempt at the first bucket then waits, far longer than any test."""
    found = Bucket.model_validate_json(task)
    result = score_bucket(task)
    if found.number == 0:
        try:
            found.work.open().lake.workspace.path("stalled").touch(exist_ok=False)
        except FileExistsError:
            return result
        time.sleep(3600)
        raise TimeoutError
    return result


def always_killed(task: str) -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return task
