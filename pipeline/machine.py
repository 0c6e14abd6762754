"""Cores and memory available to this process, the bytes it has read and written, and a limit of its memory."""

from __future__ import annotations

import errno
import os
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from pipeline.errors import StorageUnavailable

PROC = Path("/proc")
SYS = Path("/sys")
NO_MEMORY = (
    "Out of Memory Error",
    "can't allocate memory",
    "Cannot allocate memory",
    "cannot allocate memory",
    "can't start new thread",
    "failed to map segment",
)
"""What libraries say if the system refuses them memory, without an error class of its own."""


def usable_cores(proc: Path = PROC, sys: Path = SYS) -> int:
    """Returns how many threads can run at once: the CPUs that this process may use, within the quota of its cgroup.

    A quota of 1.5 CPUs counts as two. `os.cpu_count` is not used: it ignores the limits of a container.
    """
    quotas = [-(-quota // period) for quota, period in _quotas(proc, sys)]
    return max(1, min([len(_cpus()), *quotas]))


def usable_memory(proc: Path = PROC, sys: Path = SYS) -> int:
    """Returns the bytes that this process may use: the machine's memory, within the limits of its cgroups.

    Memory that other processes have taken is not subtracted: defaults that follow from it must not change by the hour.
    """
    sizes = dict(line.split(":") for line in _read(proc / "meminfo").splitlines())
    installed = int(sizes["MemTotal"].split()[0]) * 1024 if "MemTotal" in sizes else _installed_memory()
    return min([installed, *_memory_limits(proc, sys)])


def physical_cores(sys: Path = SYS) -> int:
    """Returns the number of physical cores among the usable CPUs; two threads of one core share its arithmetic units.

    If the topology is unknown, each CPU counts as one core.
    """
    return len({_read(sys / f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") or cpu for cpu in _cpus()})


def processor(proc: Path = PROC) -> str:
    """Returns the processor's name, or its architecture if the name is unknown."""
    names = (line.partition(":")[2].strip() for line in _read(proc / "cpuinfo").splitlines() if "model name" in line)
    return next(names, "") or platform.machine()


def bytes_moved(proc: Path = PROC) -> tuple[int, int] | None:
    """Returns the bytes that this process has read and written so far by system calls; None if this is not Linux.

    Includes all threads: Parquet files that DuckDB and Arrow read and write, spilled data, records, logs, Python
    modules. A file in the kernel's cache counts like one on disk. Excludes memory-mapped files (shared libraries),
    most network traffic, and other processes.
    """
    counts = dict(line.split(": ") for line in _read(proc / "self/io").splitlines())
    return (int(counts["rchar"]), int(counts["wchar"])) if {"rchar", "wchar"} <= counts.keys() else None


def bytes_of(size: str) -> int:
    """Returns the bytes of a size as DuckDB takes it, such as 400MB or 1.5GiB."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMGT])(i?)B", size)
    if match is None:
        raise ValueError(f"not a size: {size!r}")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** ("KMGT".index(match[2]) + 1))


@contextmanager
def bounded_memory(more: int, proc: Path = PROC) -> Iterator[None]:
    """Lets this process take at most `more` bytes beyond those that it has, by the kernel's RLIMIT_DATA; Linux only.

    What exceeds the limit fails as it does when memory is used up.
    """
    if sys.platform != "linux":
        yield
        return
    import resource

    sizes = dict(line.split(":") for line in _read(proc / "self/status").splitlines())
    before = resource.getrlimit(resource.RLIMIT_DATA)
    limits = [
        int(sizes["VmData"].split()[0]) * 1024 + more,
        *(each for each in before if each != resource.RLIM_INFINITY),
    ]
    resource.setrlimit(resource.RLIMIT_DATA, (min(limits), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def address_space() -> str | None:
    """Returns how much memory a limit of the shell (`ulimit -v`) leaves this process, as text; None without a limit."""
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else f"{limit / 1024**3:.1f} GiB of address space (ulimit -v)"


def out_of_memory(error: BaseException) -> StorageUnavailable | None:
    """Returns the error that says so if this process was refused memory, in whichever library; else None."""
    text = str(error)
    refused = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    if not refused and not any(words in text for words in NO_MEMORY):
        return None
    limit = address_space()
    return StorageUnavailable(
        "there is not enough memory",
        expected=f"more than {limit}" if limit else None,
        got=text.splitlines()[0] if text else type(error).__name__,
        next_step=("raise ulimit -v, or" if limit else "give the process more memory, or")
        + " set LAKESCORE_MEMORY_LIMIT and LAKESCORE_THREADS lower",
    )


def _cpus() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _quotas(proc: Path, sys: Path) -> Iterator[tuple[int, int]]:
    """Yields quota and period, in microseconds, of each cgroup of this process that has a quota."""
    for folder, unified in _groups("cpu", proc, sys):
        if unified:
            quota, _, period = _read(folder / "cpu.max").partition(" ")
        else:
            quota, period = (_read(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        if quota.isdecimal() and period.isdecimal():  # -1: no limit
            yield int(quota), int(period)


def _memory_limits(proc: Path, sys: Path) -> Iterator[int]:
    """Yields the limit, in bytes, of each cgroup of this process that has one; version 1 states one in any case."""
    for folder, unified in _groups("memory", proc, sys):
        for name in ("memory.max", "memory.high") if unified else ("memory.limit_in_bytes",):
            if (limit := _read(folder / name)).isdecimal():
                yield int(limit)


def _installed_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _groups(controller: str, proc: Path, sys: Path) -> Iterator[tuple[Path, bool]]:
    """Yields the folders of the cgroups of this process that may limit a resource, and whether they are version 2."""
    for line in _read(proc / "self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            yield from ((folder, True) for folder in _upwards(sys / "fs/cgroup", group))
        elif controller in controllers.split(","):
            yield from ((folder, False) for folder in _upwards(sys / "fs/cgroup" / controller, group))


def _upwards(root: Path, group: str) -> Iterator[Path]:
    """Yields a group's folder and its parents: each may have a quota. In a container the group's own may be absent."""
    inner = PurePosixPath(group.lstrip("/"))
    for each in (inner, *inner.parents):
        yield root / each


def _read(path: Path) -> str:
    """Returns a file's text, or an empty string: not every kernel and container has these files."""
    try:
        return path.read_text("utf-8").strip()
    except OSError:
        return ""
