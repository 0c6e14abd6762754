"""What a row costs, by the size of the day, and by the share of it that is new: whole processes, and a plot of both."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from tests.benchmarks import workspaces
from tests.benchmarks.measuring import ROOT, machine, markdown, median, python, write_section
from tests.benchmarks.parts import DAY

SIZES = (1_000_000, 10_000_000, 100_000_000)
SHARES = (0.0, 0.01, 0.1, 0.5, 1.0)
OF = 10_000_000
"""The rows of the day of which a share is new."""
ONCE = 50_000_000
"""Days of more rows than this are measured once."""
MB = 1e6
PLOT = ROOT / "docs" / "performance-slope.svg"


@dataclass(frozen=True)
class Run:
    wall_s: float
    stages_s: float
    """Plan, score and commit, without start and imports."""
    peak_bytes: int


def run(scratch: Path, rows: list[int], repeats: int) -> None:
    """Measures the sizes up to 20 times the smallest of `rows`, and shares of twice that, at most `OF`."""
    sizes = [size for size in SIZES if size <= 20 * min(rows)]
    of = min(2 * min(rows), OF)
    by_size = {size: _first(workspaces.make(scratch, size), size, repeats) for size in sizes}
    by_share = _shares(workspaces.make(scratch, of), repeats)
    columns = ["first scoring", *(f"{size / 1e6:g}M rows" for size in sizes)]
    text = [f"{machine()}. Medians of {repeats} runs, of more than {ONCE / 1e6:g}M rows one run.\n"]
    text.append(markdown(columns, _lines(by_size, {size: size for size in sizes})))
    columns = [f"of {of / 1e6:g}M rows, new", *(f"{share:.0%}" for share in by_share)]
    text += ["", markdown(columns, _lines(by_share, dict.fromkeys(by_share, of)))]
    text += ["", f"![Cost per row]({PLOT.name})"]
    _plot({size: each.wall_s / size * 1e6 for size, each in by_size.items()}, by_share)
    write_section("slope", "\n".join(text))


def _first(folder: Path, size: int, repeats: int) -> Run:
    runs = []
    for _ in range(1 if size > ONCE else repeats):
        workspaces.forget(folder)
        runs.append(_run(folder))
    shutil.rmtree(folder)
    return _median(runs)


def _shares(folder: Path, repeats: int) -> dict[float, Run]:
    """Runs a day of which all but a share was scored before."""
    whole = folder / "whole"
    workspaces.day(folder).rename(whole)
    found = {}
    for share in SHARES:
        runs = []
        for _ in range(repeats):
            write_share(folder, whole, share)
            runs.append(_run(folder))
        found[share] = _median(runs)
    return found


def write_share(folder: Path, whole: Path, share: float) -> None:
    """Writes a day of which a share is new, drawn from all over it, as a file of its own; the rest is scored."""
    day = workspaces.day(folder)
    shutil.rmtree(day, ignore_errors=True)
    day.mkdir()
    workspaces.forget(folder)
    _write(whole, day / "early.parquet", f"hash(id) % 1000 >= {round(share * 1000)}")
    if share < 1:
        _run(folder)
    _write(whole, day / "late.parquet", f"hash(id) % 1000 < {round(share * 1000)}")


def _write(source: Path, target: Path, condition: str) -> None:
    """Copies the rows of a condition; without any, the file is not written, but touched, so that there is a change."""
    with duckdb.connect() as con:
        rows = con.sql("SELECT * FROM read_parquet($p)", params={"p": f"{source}/*.parquet"})
        found = rows.filter(condition)
        if found.limit(1).fetchall():
            found.write_parquet(str(target), compression="zstd")
        elif (early := target.with_name("early.parquet")).exists():
            shutil.copy(early, target)
            target.replace(early)


def _run(folder: Path) -> Run:
    began = time.perf_counter()
    printed = python("-m", "pipeline", "run", "--job", workspaces.CORE, "--date", DAY, "--json", cwd=folder)
    wall = time.perf_counter() - began
    (day,) = json.loads(printed)
    stages: list[dict[str, Any]] = day["stages"]
    return Run(wall, sum(each["wall_s"] for each in stages if each["stage"] != "load"), day["peak_memory_bytes"])


def _median(runs: list[Run]) -> Run:
    return Run(
        median([each.wall_s for each in runs]),
        median([each.stages_s for each in runs]),
        round(median([each.peak_bytes for each in runs])),
    )


def _lines(runs: dict[Any, Run], rows: dict[Any, int]) -> list[list[object]]:
    return [
        ["whole process, s", *(f"{each.wall_s:.1f}" for each in runs.values())],
        ["plan, score and commit, s", *(f"{each.stages_s:.1f}" for each in runs.values())],
        ["**µs per row**, whole", *(f"**{each.wall_s / rows[key] * 1e6:.2f}**" for key, each in runs.items())],
        ["µs per row, stages", *(f"{each.stages_s / rows[key] * 1e6:.2f}" for key, each in runs.items())],
        ["peak memory", *(f"{each.peak_bytes / MB:,.0f} MB" for each in runs.values())],
    ]


def _plot(by_size: dict[int, float], by_share: dict[float, Run]) -> None:
    """Draws both, as an SVG without a date, so that the same figures give the same file."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "slope", "svg.fonttype": "none", "font.size": 10}):
        figure = Figure(figsize=(9, 3.2), layout="constrained", facecolor="white")
        left, right = figure.subplots(1, 2)
        left.plot(list(by_size), list(by_size.values()), marker="o")
        left.set(xscale="log", xlabel="rows of the day, all new", ylabel="µs per row, whole process", ylim=(0, None))
        shares = [f"{share:.0%}" for share in by_share]
        right.bar(shares, [each.wall_s for each in by_share.values()])
        right.set(xlabel="share of the day that is new", ylabel="seconds, whole process")
        for axes in (left, right):
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="y", alpha=0.3)
            axes.set_axisbelow(True)
        figure.savefig(PLOT, format="svg", metadata={"Date": None})
