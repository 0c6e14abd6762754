"""What this machine has for us, and what this process has asked of it: cores, bytes read and written."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

PROC = Path("/proc")
SYS = Path("/sys")


def usable_cores(proc: Path = PROC, sys: Path = SYS) -> int:
    """Returns how many threads can run at once: the CPUs that this process may use, within the quota of its cgroup.

    A quota of one and a half CPUs counts as two. `os.cpu_count` counts the machine's, which a container has not.
    """
    quotas = [-(-quota // period) for quota, period in _quotas(proc, sys)]
    return max(1, min([len(_cpus()), *quotas]))


def physical_cores(sys: Path = SYS) -> int:
    """Returns how many cores the usable CPUs are: two threads of one core share its arithmetic units.

    Where Linux does not tell, each is taken for a core of its own.
    """
    return len({_read(sys / f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") or cpu for cpu in _cpus()})


def processor(proc: Path = PROC) -> str:
    """Returns the processor's name, or at least its architecture."""
    names = (line.partition(":")[2].strip() for line in _read(proc / "cpuinfo").splitlines() if "model name" in line)
    return next(names, "") or platform.machine()


def bytes_moved(proc: Path = PROC) -> tuple[int, int] | None:
    """Returns the bytes that this process has read and written so far by calls to the kernel; None if it is not Linux.

    All of its threads count: Parquet files that DuckDB and Arrow read and write, spilled data, records, logs, modules
    of Python. A file in the kernel's cache counts like one on the disk. Not counted: files that are mapped into memory
    (shared libraries), most of what goes over a network, and other processes.
    """
    counts = dict(line.split(": ") for line in _read(proc / "self/io").splitlines())
    return (int(counts["rchar"]), int(counts["wchar"])) if {"rchar", "wchar"} <= counts.keys() else None


def _cpus() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _quotas(proc: Path, sys: Path) -> Iterator[tuple[int, int]]:
    """Yields quota and period, in microseconds, of each group that this process is in, of both versions of cgroups."""
    for line in _read(proc / "self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            for folder in _upwards(sys / "fs/cgroup", group):
                quota, _, period = _read(folder / "cpu.max").partition(" ")
                if quota.isdecimal() and period.isdecimal():
                    yield int(quota), int(period)
        elif "cpu" in controllers.split(","):
            for folder in _upwards(sys / "fs/cgroup/cpu", group):
                quota, period = (_read(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
                if quota.isdecimal() and period.isdecimal():  # -1: no limit
                    yield int(quota), int(period)


def _upwards(root: Path, group: str) -> Iterator[Path]:
    """Yields a group's folder and those above it: each may have a quota. In a container the group may not be there."""
    inner = PurePosixPath(group.lstrip("/"))
    for each in (inner, *inner.parents):
        yield root / each


def _read(path: Path) -> str:
    """Returns a file's text, or nothing: not every kernel and container has it."""
    try:
        return path.read_text("utf-8").strip()
    except OSError:
        return ""
