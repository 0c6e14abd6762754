"""Tells whether the process of a run is still alive."""

from __future__ import annotations

import os
import socket

from pipeline.lake.record_store import OPEN
from pipeline.records import RunRecord


def is_at_work(record: RunRecord) -> bool | None:
    """Tells whether the process of a run is alive.

    Returns None if that is unknown: the process runs on another host, or the run waits between two stages.
    """
    return is_alive(record.host, record.pid) if record.state in OPEN else False


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
