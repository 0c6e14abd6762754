"""Where a first scoring spends its time: py-spy's samples of a whole process, and torch's own profile of the network.

py-spy sees the threads of Python while they are busy, so of DuckDB only what these do for it, not its own threads.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from pipeline.errors import UsageError
from tests.benchmarks import workspaces
from tests.benchmarks.measuring import in_environment, machine, markdown, python, write_section
from tests.benchmarks.parts import DAY

RATE = 200
"""Samples per second."""
WHERE = (
    ("importing torch", ("<module> (torch/__init__.py",)),
    ("other imports", ("_find_and_load (",)),
    ("reading: DuckDB into Arrow", ("Source.next (",)),
    ("judging: matrix, fingerprints, finite", ("Worker._prepare (",)),
    ("the network", ("ModelOutputs.__call__ (",)),
    ("writing Parquet", ("Sink.score (", "Sink.close (")),
    ("waiting for the model", ("ModelOutputs.wait (",)),
    ("plan: unique keys", ("make_plan (",)),
    (
        "commit: the ledger, read twice",
        ("Accounts.before_commit (", "Accounts.after_commit (", "Accounts.statistics ("),
    ),
)
"""By the first of these of which a stack has a frame."""
OPERATIONS = 8


def run(scratch: Path, rows: list[int], _repeats: int) -> None:
    """Profiles the smallest of `rows`, once. Raises UsageError without py-spy."""
    if (spy := shutil.which("py-spy")) is None:
        raise UsageError("py-spy is not installed", next_step="pip install -e '.[bench]'")
    count = min(rows)
    folder = workspaces.make(scratch, count)
    samples = _samples(spy, folder, scratch / "samples.txt")
    total = sum(samples.values())
    lines: list[list[object]] = [
        [name, f"{number / RATE:.2f}", f"{number / total:.0%}"] for name, number in samples.most_common()
    ]
    operations = json.loads(python("-m", "tests.benchmarks.spent", folder).splitlines()[-1])
    text = [
        f"{machine()}. {count / 1e6:g}M rows, one run.\n",
        markdown(["busy threads of Python", "seconds", "share"], lines),
        "",
    ]
    text.append(markdown(["operation of torch, one thread", "share of the network's time"], operations))
    write_section("spent", "\n".join(text))


def _samples(spy: str, folder: Path, file: Path) -> Counter[str]:
    """Returns the number of samples by where they were taken."""
    command = [sys.executable, "-m", "pipeline", "run", "--job", workspaces.CORE, "--date", DAY, "--json"]
    record = [spy, "record", "--rate", str(RATE), "--format", "raw", "--output", str(file), "--nonblocking", "--"]
    subprocess.run([*record, *command], cwd=folder, env=in_environment(), capture_output=True, check=True)
    found: Counter[str] = Counter()
    for line in file.read_text("utf-8").splitlines():
        stack, _, number = line.rpartition(" ")
        found[_place(stack)] += int(number)
    return found


def _place(stack: str) -> str:
    frames = stack.split(";")
    found = (name for name, marks in WHERE if any(frame.startswith(marks) for frame in frames))
    return next(found, "the rest of Python")


def operations(folder: Path) -> list[list[str]]:
    """Returns what torch does in the network, and the share of each of its time."""
    import numpy as np
    import torch
    from torch.profiler import ProfilerActivity, profile

    from pipeline import Context, Settings, find_job

    settings = Settings(lake=str(folder / "lake"), jobs=folder / "dags" / "jobs", models=str(folder / "models"))
    ctx = Context.open(find_job(workspaces.CORE, settings), settings)
    torch.set_num_threads(1)
    manifest = ctx.registry.resolve(ctx.job.model.name, ctx.job.model.version)
    predictor = ctx.registry.load(manifest, "cpu", None)
    matrix = np.random.default_rng(0).random((61_440, manifest.signature.width), np.float32)
    predictor.predict_arrow(matrix, 4096)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(20):
            predictor.predict_arrow(matrix, 4096)
    events = profiled.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    longest = sorted(events, key=lambda event: -event.self_cpu_time_total)[:OPERATIONS]
    return [[f"`{event.key}`", f"{event.self_cpu_time_total / total:.0%}"] for event in longest]


if __name__ == "__main__":
    print(json.dumps(operations(Path(sys.argv[1]))))  # noqa: T201
