"""Tells whether a run is at work: by a heartbeat, a file that the process of the run touches.

    .staging/alive-<run_id>

It lies on the disk of the lake, or in its object store, so that any machine can see it. It also says which process it
is: one of this very system is looked up, and so known to be dead at once. Others count as dead once their heartbeat is
`SILENT_S` old by the clock of the storage.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import LakescoreError
from pipeline.lake.record_store import OPEN
from pipeline.records import RunRecord
from pipeline.storage import make_folder

if TYPE_CHECKING:
    from pipeline.lake.layout import Lake

log = logging.getLogger(__name__)

PREFIX = "alive-"
BEAT_S = 20.0
"""Seconds between two touches."""
SILENT_S = 300.0
"""Age in seconds from which on a heartbeat says that its process is gone: many beats, as a storage may stall."""


@contextmanager
def beating(lake: Lake, record: RunRecord) -> Iterator[None]:
    """Keeps the heartbeat of a run while the block runs. A beat that fails is only logged: the run is worth more."""
    over = threading.Event()
    _beat(lake, record.run_id)
    thread = threading.Thread(target=_keep_beating, args=(lake, record.run_id, over), name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        forget(lake, record.run_id)


def is_at_work(lake: Lake, record: RunRecord) -> bool | None:
    """Tells whether the process of a run is alive.

    Returns None if that is unknown: the run waits between two stages, or an earlier version of Lakescore has begun it
    on another host.
    """
    if record.state not in OPEN:
        return False
    key = _key(record.run_id)
    try:
        content, (_, touched) = lake.storage.read(key), lake.storage.stat(key)
    except FileNotFoundError:
        return is_alive(record.host, record.pid)
    process = _parsed(content or b"")
    if process.get("system") == _system():
        return _started(process.get("pid")) == process.get("started")
    return (_now(lake) - touched).total_seconds() < SILENT_S


def is_alive(host: str, pid: int) -> bool | None:
    """Tells whether a process is alive, or returns None for another host."""
    if host != socket.gethostname():
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # it belongs to another user
    return True


def forget(lake: Lake, run_id: str) -> None:
    """Removes the heartbeat of a run that has ended."""
    with _only_logged(run_id):
        if lake.is_local:
            lake.workspace.path(_key(run_id)).unlink(missing_ok=True)
        else:
            lake.storage.delete(_key(run_id))


def _key(run_id: str) -> str:
    return f".staging/{PREFIX}{run_id}"


def _keep_beating(lake: Lake, run_id: str, over: threading.Event) -> None:
    while not over.wait(BEAT_S):
        _beat(lake, run_id)


def _beat(lake: Lake, run_id: str) -> None:
    content = json.dumps({"system": _system(), "pid": os.getpid(), "started": _started(os.getpid())}).encode()
    with _only_logged(run_id):
        _put(lake, _key(run_id), content)


def _put(lake: Lake, key: str, content: bytes) -> None:
    """Writes a file whose loss does no harm: on a disk, in place and without a sync."""
    if not lake.is_local:
        lake.storage.write(key, content)
        return
    path = lake.workspace.path(key)
    make_folder(path.parent)
    path.write_bytes(content)


def _now(lake: Lake) -> datetime:
    """Returns the time by the clock that dates the files of the storage."""
    key = f".staging/{PREFIX}clock-{secrets.token_hex(8)}"
    _put(lake, key, b"")
    try:
        return lake.storage.stat(key)[1]
    finally:
        lake.storage.delete(key)


def _system() -> str:
    """Returns what distinguishes this running system, or container, from all others; an empty text if nothing does."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: object) -> str | None:
    """Returns when a process has started, in ticks since the system has; None if there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _parsed(content: bytes) -> dict[str, Any]:
    """Returns what a heartbeat says; nothing if it is being written just now."""
    with suppress(ValueError):
        found = json.loads(content)
        if isinstance(found, dict) and found.get("system") and found.get("started"):
            return found
    return {}


@contextmanager
def _only_logged(run_id: str) -> Iterator[None]:
    try:
        yield
    except (LakescoreError, OSError) as error:
        log.debug("the heartbeat of run %s: %s", run_id, error)
