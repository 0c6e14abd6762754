"""Reading the machine's cores, memory, quotas and threads per core."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import machine

USABLE = len(os.sched_getaffinity(0))


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/", {}, USABLE),
        ("0::/a/b", {"fs/cgroup/a/b/cpu.max": "max 100000"}, USABLE),
        ("0::/a/b", {"fs/cgroup/a/b/cpu.max": "50000 100000"}, 1),
        ("0::/a/b", {"fs/cgroup/a/b/cpu.max": "max 100000", "fs/cgroup/a/cpu.max": "100000 100000"}, 1),
        ("0::/not/here", {"fs/cgroup/cpu.max": "100000 100000"}, 1),
        ("0::/a", {"fs/cgroup/a/cpu.max": "9900000 100000"}, USABLE),
        ("3:cpu,cpuacct:/a", {"fs/cgroup/cpu/a/cpu.cfs_quota_us": "-1"}, USABLE),
        (
            "3:cpu,cpuacct:/a",
            {"fs/cgroup/cpu/a/cpu.cfs_quota_us": "90000", "fs/cgroup/cpu/a/cpu.cfs_period_us": "100000"},
            1,
        ),
        ("3:cpuset:/a", {"fs/cgroup/cpu/a/cpu.cfs_quota_us": "1", "fs/cgroup/cpu/a/cpu.cfs_period_us": "1"}, USABLE),
    ],
)
def test_usable_cores_are_within_the_quota(tmp_path: Path, groups: str, files: dict[str, str], expected: int) -> None:
    proc = write(tmp_path / "proc", {"self/cgroup": groups})
    assert machine.usable_cores(proc, write(tmp_path / "sys", files)) == expected


def test_usable_cores_quota_of_one_and_a_half_counts_as_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(8)))
    proc = write(tmp_path / "proc", {"self/cgroup": "0::/"})
    assert machine.usable_cores(proc, write(tmp_path / "sys", {"fs/cgroup/cpu.max": "150000 100000"})) == 2


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/", {}, 8 << 30),
        ("0::/a/b", {"fs/cgroup/a/b/memory.max": "max"}, 8 << 30),
        ("0::/a/b", {"fs/cgroup/a/b/memory.max": "max", "fs/cgroup/a/memory.max": "1000000"}, 1_000_000),
        ("0::/a", {"fs/cgroup/a/memory.max": "3000000", "fs/cgroup/a/memory.high": "2000000"}, 2_000_000),
        ("0::/not/here", {"fs/cgroup/memory.max": "1000000"}, 1_000_000),
        ("4:memory:/a", {"fs/cgroup/memory/a/memory.limit_in_bytes": "1000000"}, 1_000_000),
        ("4:memory:/a", {"fs/cgroup/memory/a/memory.limit_in_bytes": "9223372036854771712"}, 8 << 30),
        ("4:pids:/a", {"fs/cgroup/memory/a/memory.limit_in_bytes": "1"}, 8 << 30),
    ],
)
def test_usable_memory_is_within_the_limits(tmp_path: Path, groups: str, files: dict[str, str], expected: int) -> None:
    proc = write(tmp_path / "proc", {"self/cgroup": groups, "meminfo": "MemTotal:  8388608 kB\nMemFree:  1 kB"})
    assert machine.usable_memory(proc, write(tmp_path / "sys", files)) == expected


def test_usable_memory_is_known_without_linux(tmp_path: Path) -> None:
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert machine.usable_memory(tmp_path, tmp_path) == installed


def test_usable_cores_are_those_that_this_process_may_use() -> None:
    script = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    script += "from pipeline import machine; print(machine.usable_cores(), machine.physical_cores())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]


def test_physical_cores_count_two_threads_of_a_core_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: {0, 1, 2, 3})
    siblings = {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}
    files = {f"devices/system/cpu/cpu{cpu}/topology/thread_siblings_list": text for cpu, text in siblings.items()}
    assert machine.physical_cores(write(tmp_path, files)) == 2
    assert machine.physical_cores(tmp_path / "nothing") == 4


def test_processor_has_a_name(tmp_path: Path) -> None:
    assert machine.processor()
    named = write(tmp_path, {"cpuinfo": "processor : 0\nmodel name : A Good One\nmodel name : A Good One"})
    assert machine.processor(named) == "A Good One"
    assert machine.processor(tmp_path / "nothing")


def moved(work: Callable[[], object]) -> tuple[int, int]:
    before = machine.bytes_moved()
    work()
    after = machine.bytes_moved()
    assert before is not None
    assert after is not None
    return after[0] - before[0], after[1] - before[1]


def test_bytes_moved_count_what_duckdb_and_arrow_read_and_write(tmp_path: Path) -> None:
    path, copy = tmp_path / "rows.parquet", tmp_path / "copy.parquet"
    rows = pa.table({"a": np.random.default_rng(0).normal(size=500_000)})  # 4 MB that cannot be compressed
    read, written = moved(lambda: pq.write_table(rows, path))
    size = path.stat().st_size
    assert size > 3_000_000
    assert size <= written < 1.1 * size
    assert read < 0.1 * size
    with duckdb.connect() as con:
        read, written = moved(
            lambda: con.sql("SELECT sum(a) FROM read_parquet($p)", params={"p": str(path)}).fetchall()
        )
        assert 0.9 * size < read < 1.2 * size
        assert written < 0.1 * size
        _, written = moved(lambda: con.sql("FROM read_parquet($p)", params={"p": str(path)}).write_parquet(str(copy)))
        assert copy.stat().st_size <= written < 1.1 * copy.stat().st_size
    read, _ = moved(lambda: pq.read_table(path))
    assert 0.9 * size < read < 1.2 * size


def test_bytes_moved_are_not_known_everywhere(tmp_path: Path) -> None:
    assert machine.bytes_moved(tmp_path) is None


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        pa.ArrowMemoryError("malloc of size 64 failed"),
        OSError(12, "Cannot allocate memory"),
        RuntimeError("can't start new thread"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        duckdb.OutOfMemoryException("Out of Memory Error: Allocation failure"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_out_of_memory_is_recognised_in_whichever_library(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "ulimit" not in str(machine.out_of_memory(error))
    monkeypatch.setattr("resource.getrlimit", lambda _: (3 * 1024**3, 3 * 1024**3))
    assert "more than 3.0 GiB of address space (ulimit -v)" in str(machine.out_of_memory(error))


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    assert machine.out_of_memory(OSError(28, "No space left on device")) is None
    assert machine.out_of_memory(ValueError("memory")) is None
