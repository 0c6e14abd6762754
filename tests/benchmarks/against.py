"""The same day, first and half scored, by Lakescore and by its rivals: whole processes, side by side, taken in turn."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import duckdb

from tests.benchmarks import workspaces
from tests.benchmarks.measuring import ROOT, machine, markdown, median, python, whole_process, write_section
from tests.benchmarks.parts import DAY

RIVALS = {
    "daft": "Daft",
    "polars": "Polars script",
    "pandas": "pandas loop",
    "ray": "Ray Data",
    "pyspark": "Spark, local",
}
"""By the package that each needs: `pip install -e '.[bench]'`."""
OURS = "Lakescore, without validation, profile, drift and report"
FULL = "Lakescore, with validation, profile, drift and report"
JOBS = {OURS: workspaces.CORE, FULL: workspaces.FULL}
NO_HALF = {"ray"}
"""Those whose documentation gives no way to leave out what is stored that fits into this memory."""


def run(scratch: Path, rows: list[int], repeats: int) -> None:
    """Measures the smallest number of `rows`."""
    count = min(rows)
    workspace = workspaces.make(scratch, count)
    text = [f"{machine()}. {count / 1e6:g}M rows. Seconds of whole processes, medians of {repeats}, taken in turn.\n"]
    first, half = _times(workspace, repeats, half=False), _times(workspace, repeats, half=True)
    lines = []
    for name in first:
        cells = [name, f"{first[name]:.1f}", f"{first[name] / first[OURS]:.1f}"]
        cells += [f"{half[name]:.1f}", f"{half[name] / half[OURS]:.1f}"] if name in half else ["", ""]
        lines.append(cells)
    text.append(markdown(["", "first scoring", "x ours", "half scored before", "x ours"], lines))
    write_section("against", "\n".join(text))


def _times(workspace: Path, repeats: int, *, half: bool) -> dict[str, float]:
    """Returns the median seconds of each contestant."""
    theirs = workspace.parent / "rivals"
    _lay_out(workspace, theirs, half=half)
    found: dict[str, list[float]] = {}
    for _ in range(repeats):
        for name, job in JOBS.items():
            found.setdefault(name, []).append(_ours(workspace, job, half=half))
        for package, name in RIVALS.items():
            if importlib.util.find_spec(package) is None or (half and package in NO_HALF):
                continue
            shutil.rmtree(theirs / "output", ignore_errors=True)
            module = f"tests.benchmarks.rivals.with_{package.removeprefix('py')}"
            found.setdefault(name, []).append(whole_process("-m", module, theirs, cwd=ROOT))
            _check(theirs / "output", workspace, half=half)
    return {name: median(times) for name, times in found.items()}


def _lay_out(workspace: Path, theirs: Path, *, half: bool) -> None:
    """Gives the rivals the same files; of a day half scored, half of the predictions, in one file."""
    shutil.rmtree(theirs, ignore_errors=True)
    theirs.mkdir()
    day = workspaces.day(workspace)
    (theirs / "input").symlink_to(day)
    shutil.copy(workspace / "model.pt", theirs)
    if not half:
        return
    (theirs / "stored").mkdir()
    with duckdb.connect() as con:
        rows = con.sql("SELECT * FROM read_parquet($p)", params={"p": f"{day}/*.parquet"})
        first = rows.filter("hash(id) % 2 = 0")
        early = workspace / "early.parquet"
        first.write_parquet(str(early), compression="zstd")
        python("-m", "tests.benchmarks.rivals.with_polars", _only(theirs, early), cwd=ROOT)
    shutil.move(theirs / "early" / "output" / "part-0.parquet", theirs / "stored" / "part-0.parquet")
    _score_half(workspace, early)


def _only(theirs: Path, file: Path) -> Path:
    folder = theirs / "early"
    (folder / "input").mkdir(parents=True)
    (folder / "input" / "part-0.parquet").symlink_to(file)
    shutil.copy(theirs / "model.pt", folder)
    return folder


def _score_half(workspace: Path, early: Path) -> None:
    """Scores half of the day, and keeps the lake as it then is for each run to begin with."""
    day = workspaces.day(workspace)
    whole = workspace / "whole"
    day.rename(whole)
    day.mkdir()
    shutil.copy(early, day / "part-0.parquet")
    workspaces.forget(workspace)
    for job in JOBS.values():
        python("-m", "pipeline", "run", "--job", job, "--date", DAY, "--json", cwd=workspace)
    shutil.rmtree(day)
    whole.rename(day)
    for kept in workspaces.KEPT:
        shutil.copytree(workspace / "lake" / kept, workspace / "half" / kept)


def _ours(workspace: Path, job: str, *, half: bool) -> float:
    workspaces.forget(workspace)
    if half:
        shutil.copytree(workspace / "half", workspace / "lake", dirs_exist_ok=True)
    return whole_process("-m", "pipeline", "run", "--job", job, "--date", DAY, "--json", cwd=workspace)


def _check(output: Path, workspace: Path, *, half: bool) -> None:
    """A rival that leaves out rows would be fast."""
    with duckdb.connect() as con:
        day = workspaces.day(workspace)
        counts = []
        for place, condition in ((day, "hash(id) % 2 = 1" if half else "true"), (output, "true")):
            rows = con.sql("SELECT id FROM read_parquet($p)", params={"p": f"{place}/**/*.parquet"})
            counts.append(rows.filter(condition).aggregate("count(*), count(DISTINCT id)").fetchall())
    assert counts[0] == counts[1], counts
