"""How a piece of work is measured: in a process of its own, imports apart."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.context import peak_memory_bytes
from pipeline.machine import usable_cores

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Measured:
    wall_s: float
    cpu_s: float
    peak_bytes: int


def measure(work: Callable[[], object]) -> Measured:
    """Measures a call in this process; `peak_bytes` is the highest resident memory since the process began."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Measured(wall, cpu, peak_memory_bytes())


def report(measured: Measured) -> None:
    """Prints a measurement, for `in_process` to read."""
    print(json.dumps(asdict(measured)))  # noqa: T201


def in_process(module: str, *arguments: object) -> Measured:
    """Runs a module that reports one measurement, in a fresh process."""
    done = python("-m", module, *arguments)
    return Measured(**json.loads(done.splitlines()[-1]))


def python(*arguments: object, cwd: Path = ROOT) -> str:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=in_environment(), stdout=subprocess.PIPE, text=True, check=True).stdout


def in_environment() -> dict[str, str]:
    """Returns the environment of a process that finds this checkout."""
    return os.environ | {"PYTHONPATH": str(ROOT)}


def whole_process(*arguments: object, cwd: Path = ROOT) -> float:
    """Returns the wall seconds of a whole process, its start included."""
    started = time.perf_counter()
    python(*arguments, cwd=cwd)
    return time.perf_counter() - started


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def machine() -> str:
    """Returns what the figures were measured on."""
    cpu = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    model = next((line.split(":")[1].strip() for line in cpu if line.startswith("model name")), "?")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{usable_cores()} cores ({model}), {memory:.0f} GiB, Python {platform.python_version()}"


def markdown(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines)


def write_section(name: str, text: str, document: str = "performance.md") -> None:
    """Puts a result between its markers in a document of docs/, and prints it."""
    path = ROOT / "docs" / document
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, rest = path.read_text("utf-8").split(begin)
    path.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}", "utf-8")
    print(f"\n{text}")  # noqa: T201
