"""A first scoring against the sum of its parts, its memory, and the re-run of an unchanged day."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.machine import usable_cores
from tests.benchmarks import workspaces
from tests.benchmarks.measuring import in_process, machine, markdown, median, python, whole_process, write_section
from tests.benchmarks.parts import DAY, PARTS

STAGES = ("plan", "score", "commit")
MB = 1e6


def run(scratch: Path, rows: list[int], repeats: int) -> None:
    text = [f"{machine()}. Medians of {repeats} runs, taken in turn.\n"]
    found = [_measure(workspaces.make(scratch, count), repeats) for count in rows]
    text.append(_parts_table(rows, found))
    text.append("")
    text.append(_rerun_table(rows, found))
    write_section("daily", "\n".join(text))


def _measure(folder: Path, repeats: int) -> dict[str, Any]:
    """Runs the parts and the whole in turn, so that noise of the machine meets all alike."""
    parts: dict[str, list[Any]] = {name: [] for name in PARTS}
    runs = []
    for _ in range(repeats):
        for name, results in parts.items():
            results.append(in_process("tests.benchmarks.parts", name, folder))
        workspaces.forget(folder)
        runs.append(json.loads(python("-m", "tests.benchmarks.whole", folder, workspaces.CORE).splitlines()[-1]))
    command = ["-m", "pipeline", "run", "--job", workspaces.CORE, "--date", DAY, "--json"]
    again = [whole_process(*command, cwd=folder) for _ in range(repeats * 2)]
    imports = [whole_process("-c", "import duckdb, pydantic", cwd=folder) for _ in range(repeats * 2)]
    return {"parts": parts, "runs": runs, "again": median(again), "imports": median(imports)}


def _parts_table(rows: list[int], found: list[dict[str, Any]]) -> str:
    cores = usable_cores()
    lines: list[list[object]] = [
        [name, *(f"{median([part.cpu_s for part in each['parts'][name]]):.2f}" for each in found)] for name in PARTS
    ]
    bounds = [sum(median([part.cpu_s for part in each["parts"][name]]) for name in PARTS) / cores for each in found]
    lines.append([f"**sum / {cores} cores**", *(f"**{bound:.2f}**" for bound in bounds)])
    lines += [[f"run: {stage}, wall", *(f"{stage_wall(each, stage):.2f}" for each in found)] for stage in STAGES]
    walls = [sum(stage_wall(each, stage) for stage in STAGES) for each in found]
    lines.append(["**run, wall**", *(f"**{wall:.2f}**" for wall in walls)])
    lines.append(["**ratio**", *(f"**{wall / bound:.2f}**" for wall, bound in zip(walls, bounds, strict=True))])
    peaks = [median([run["peak_memory_bytes"] for run in each["runs"]]) for each in found]
    lines.append(["peak memory of the run", *(f"{peak / MB:,.0f} MB" for peak in peaks)])
    return markdown(["seconds (CPU of the parts)", *(f"{count / 1e6:g}M rows" for count in rows)], lines)


def _rerun_table(rows: list[int], found: list[dict[str, Any]]) -> str:
    lines = [
        ["`lakescore run`, nothing changed", *(f"{each['again']:.2f} s" for each in found)],
        ["`python -c 'import duckdb, pydantic'`", *(f"{each['imports']:.2f} s" for each in found)],
        ["**ratio**", *(f"**{each['again'] / each['imports']:.2f}**" for each in found)],
    ]
    return markdown(["whole process", *(f"{count / 1e6:g}M rows" for count in rows)], lines)


def stage_wall(each: dict[str, Any], name: str) -> float:
    """Returns the median wall seconds of a stage. Loading the model is the stage `load`, left out."""
    return median([run["stages"][name] for run in each["runs"]])
