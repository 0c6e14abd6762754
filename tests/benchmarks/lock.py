"""How long the scoring of narrow rows holds Python's lock: no number of cores makes up for that time.

py-spy samples the same run twice: the thread that holds the lock, and the threads that run. The share of the first in
the second, of the CPU time of the workers, is the time for which the lock is held by a thread that works: on a busy
machine, a thread that waits for a core holds it longer, but that says nothing about the code.

`python -m tests.benchmarks.lock FOLDER` is the run alone; it prints the CPU seconds of the workers.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from pipeline.errors import UsageError
from tests.benchmarks import workspaces
from tests.benchmarks.measuring import ROOT, in_environment, machine, markdown, write_section
from tests.benchmarks.parts import DAY

RATE = 500
"""Samples per second."""
WORKER = "Worker.work ("
IMPORT = "_find_and_load ("
PARTS = {
    "reading": "Worker._next (",
    "judging": "Worker._prepare (",
    "the network": "ModelOutputs.__call__ (",
    "writing": "Sink.",
}
REST = "the loop, and returning memory"


@dataclass(frozen=True)
class Sampled:
    rows: int
    cpu_s: float
    """CPU seconds of the workers."""
    holding: Counter[str]
    """Samples of workers that hold the lock, by what they do."""
    running: Counter[str]
    """Samples of workers that run, or wait for a core."""

    def held_s(self, part: str | None = None) -> float:
        """Returns the seconds for which the lock is held per million rows, by one activity or in total."""
        holding = self.holding.total() if part is None else self.holding[part]
        return holding / self.running.total() * self.cpu_s / self.rows * 1e6

    def __add__(self, other: Sampled) -> Sampled:
        return Sampled(
            self.rows + other.rows,
            self.cpu_s + other.cpu_s,
            self.holding + other.holding,
            self.running + other.running,
        )


def run(scratch: Path, rows: list[int], repeats: int) -> None:
    """Samples the smallest of `rows`. Raises UsageError without py-spy."""
    count = min(rows)
    folder = workspaces.make(scratch, count)
    samples = [sampled(folder, count) for _ in range(repeats)]
    total = samples[0]
    for each in samples[1:]:
        total += each
    lines: list[list[object]] = []
    for part in (*PARTS, REST):
        share = total.running[part] / total.running.total()
        lines.append([part, f"{total.held_s(part):.3f}", f"{share:.0%}"])
    lines.append(["**all**", f"**{total.held_s():.3f}**", ""])
    single = ", ".join(f"{each.held_s():.3f}" for each in samples)
    text = [f"{machine()}. {count / 1e6:g}M rows, {repeats} runs: {single} s per million rows.\n"]
    text.append(markdown(["workers", "seconds of Python's lock per million rows", "share of their time"], lines))
    write_section("lock", "\n".join(text))


def sampled(folder: Path, rows: int) -> Sampled:
    """Scores the day of a workspace once, and returns the samples of its workers."""
    if (spy := shutil.which("py-spy")) is None:
        raise UsageError("py-spy is not installed", next_step="pip install -e '.[bench]'")
    workspaces.forget(folder)
    command = [sys.executable, "-m", "tests.benchmarks.lock", str(folder)]
    with subprocess.Popen(command, cwd=ROOT, env=in_environment(), stdout=subprocess.PIPE, text=True) as scoring:
        files = {kind: folder / f"samples-{kind}.txt" for kind in ("gil", "running")}
        record = [spy, "record", "--pid", str(scoring.pid), "--rate", str(RATE), "--format", "raw", "--nonblocking"]
        spies = [
            subprocess.Popen(
                [*record, "--output", str(file), *(["--gil"] if kind == "gil" else [])],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for kind, file in files.items()
        ]
        printed, _ = scoring.communicate()
        for each in spies:
            each.wait()
    return Sampled(rows, json.loads(printed.splitlines()[-1]), *(_count(file) for file in files.values()))


def _count(file: Path) -> Counter[str]:
    found: Counter[str] = Counter()
    for line in file.read_text("utf-8").splitlines():
        stack, _, number = line.rpartition(" ")
        frames = stack.split(";")
        if not any(frame.startswith(WORKER) for frame in frames) or any(frame.startswith(IMPORT) for frame in frames):
            continue
        parts = (part for part, mark in PARTS.items() if any(frame.startswith(mark) for frame in frames))
        found[next(parts, REST)] += int(number)
    return found


def main(folder: Path) -> None:
    import torch  # noqa: F401 - the run finds it imported

    from pipeline import Context, Settings, find_job, run_day, startup
    from pipeline.scoring import workers

    class Timed(workers.Worker):
        def work(self, source: workers.Source) -> Counter[str]:
            began = time.thread_time()
            try:
                return super().work(source)
            finally:
                spent.append(time.thread_time() - began)

    spent: list[float] = []
    startup.configure()
    startup._hide_pandas()
    settings = Settings(lake=str(folder / "lake"), jobs=folder / "dags" / "jobs", models=str(folder / "models"))
    with mock.patch("pipeline.scoring.stage.Worker", Timed):
        run_day(Context.open(find_job(workspaces.CORE, settings), settings), DAY)
    print(json.dumps(sum(spent)))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]))
