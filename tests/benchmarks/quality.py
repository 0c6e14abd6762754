"""The cost of validation with the default job's suites: of input and output, against the scoring itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.benchmarks import workspaces
from tests.benchmarks.daily import MB, stage_wall
from tests.benchmarks.measuring import machine, markdown, median, python, write_section

VALIDATION = ("validate_input", "validate_output")


def run(scratch: Path, rows: list[int], repeats: int) -> None:
    text = [f"{machine()}. Medians of {repeats} runs.\n"]
    found = [_measure(workspaces.make(scratch, count), repeats) for count in rows]
    stages = (*VALIDATION, "score", "plan", "commit")
    lines: list[list[object]] = [[stage, *(f"{stage_wall(each, stage):.2f}" for each in found)] for stage in stages]
    spent = [sum(stage_wall(each, stage) for stage in VALIDATION) for each in found]
    ratios = [whole / stage_wall(each, "score") for whole, each in zip(spent, found, strict=True)]
    lines.append(["**validation / score**", *(f"**{ratio:.2f}**" for ratio in ratios)])
    peaks = [median([run["peak_memory_bytes"] for run in each["runs"]]) for each in found]
    lines.append(["peak memory of the run", *(f"{peak / MB:,.0f} MB" for peak in peaks)])
    text.append(markdown(["wall seconds", *(f"{count / 1e6:g}M rows" for count in rows)], lines))
    write_section("quality", "\n".join(text))


def _measure(folder: Path, repeats: int) -> dict[str, Any]:
    runs = []
    for _ in range(repeats):
        workspaces.forget(folder)
        runs.append(json.loads(python("-m", "tests.benchmarks.whole", folder).splitlines()[-1]))
    return {"runs": runs}
