"""How scoring gets faster with workers: 1, 2, 4, 8, 16, as far as this machine has cores for them; who starves.

`python -m tests.benchmarks workers` measures what the machine can; it leaves out the rest and says so.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.machine import usable_cores
from tests.benchmarks import shapes, workspaces
from tests.benchmarks.measuring import machine, markdown, median, python, write_section

WORKERS = (1, 2, 4, 8, 16)
NARROW_ROWS = 20_000_000
PARTS = ("read", "judge", "forward", "write")


def run(scratch: Path, rows: list[int], repeats: int) -> None:
    """Measures a narrow and a wide day; of `rows` it takes the largest if the shape has more."""
    narrow, wide = min(NARROW_ROWS, max(rows)), min(shapes.SHAPES["wide"].rows, max(rows))
    days = [
        (f"{narrow / 1e6:g}M x 6", workspaces.make(scratch, narrow), workspaces.CORE, narrow),
        (f"{wide / 1e6:g}M x 200", shapes.lay_out(scratch, "wide", wide), "wide", wide),
    ]
    lines: list[list[object]] = []
    for name, folder, job, count in days:
        alone = 0.0
        for workers, found in _measure(folder, job, repeats).items():
            if not found:
                lines.append([name, workers, "not measured", *[""] * (2 + len(PARTS))])
                continue
            wall = median([each["stages"]["score"] for each in found])
            busy = [f"{median([each['busy'][part] for each in found]):.0%}" for part in PARTS]
            alone = alone or wall
            lines.append([name, workers, f"{wall:.2f}", f"{count / wall / 1e6:.2f}M", f"{alone / wall:.1f}", *busy])
    columns = ["rows", "workers", "score, s", "rows/s", "x one worker", *PARTS]
    text = f"{machine()}. Medians of {repeats} runs, imports apart; not more workers than cores."
    write_section("workers", f"{text}\n\n{markdown(columns, lines)}")


def _measure(folder: Path, job: str, repeats: int) -> dict[int, list[dict[str, Any]]]:
    """Runs the day with each number of workers in turn; with none that the machine has no cores for."""
    found: dict[int, list[dict[str, Any]]] = {workers: [] for workers in WORKERS}
    for _ in range(repeats):
        for workers in [each for each in WORKERS if each <= usable_cores()]:
            workspaces.forget(folder)
            printed = python("-m", "tests.benchmarks.whole", folder, job, workers)
            found[workers].append(json.loads(printed.splitlines()[-1]))
    return found
