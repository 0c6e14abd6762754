"""A backfill of many small days: the CPU time of each, by the default job and by what is left of it without extras.

python -m tests.benchmarks backfill
python -m tests.benchmarks.backfill FOLDER --job JOB --from DAY --to DAY [--against CHECKOUT]

The second measures the days of an own workspace (lake, models, dags/jobs), on copies of it; with another checkout of
Lakescore also by that one, in turn.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import duckdb

from tests.benchmarks import workspaces
from tests.benchmarks.measuring import ROOT, machine, markdown, median, write_section

DAYS, ROWS = 60, 2_600
"""Made-up days, and the rows of each: about as many as the 374 days of Online Retail have."""
FIRST = date(2026, 2, 1)


@dataclass(frozen=True)
class Backfill:
    cpu_s: float
    """User and system, with that of the processes that it starts."""
    wall_s: float


def run(scratch: Path, _rows: list[int], repeats: int) -> None:
    folder = _made_up(scratch)
    first, last = FIRST, FIRST + timedelta(days=DAYS - 1)
    lines: list[list[object]] = []
    for name, job in (
        ("default job, with suites, profile, drift and pages", workspaces.FULL),
        ("core", workspaces.CORE),
    ):
        found, again = _repeated(folder, job, str(first), str(last), repeats)
        lines.append([name, *(f"{value / DAYS * 1e3:,.0f}" for value in (found.cpu_s, found.wall_s)), f"{again:.1f}"])
    columns = ["", "CPU ms per day", "wall ms per day", "second time, s in all"]
    text = f"{machine()}. {DAYS} days of {ROWS:,} rows, whole processes, medians of {repeats}.\n"
    write_section("backfill", f"{text}\n{markdown(columns, lines)}")


def _made_up(scratch: Path) -> Path:
    """Returns a workspace whose one day is split into many."""
    folder = workspaces.make(scratch, DAYS * ROWS)
    whole = workspaces.day(folder)
    with duckdb.connect() as con:
        rows = con.sql("FROM read_parquet($p, hive_partitioning = false)", params={"p": f"{whole}/*.parquet"})
        for number in range(DAYS):
            day = whole.parent / f"ds={FIRST + timedelta(days=number)}"
            day.mkdir()
            rows.filter(f"hash(id) % {DAYS} = {number}").write_parquet(str(day / "part-0.parquet"), compression="zstd")
    shutil.rmtree(whole)
    return folder


def _repeated(folder: Path, job: str, first: str, last: str, repeats: int) -> tuple[Backfill, float]:
    """Returns the medians of new backfills, and the seconds of one that finds nothing to do."""
    found = []
    for _ in range(repeats):
        workspaces.forget(folder)
        found.append(_backfill(ROOT, folder, job, first, last))
    again = _backfill(ROOT, folder, job, first, last)
    return Backfill(median([each.cpu_s for each in found]), median([each.wall_s for each in found])), again.wall_s


def _backfill(checkout: Path, folder: Path, job: str, first: str, last: str) -> Backfill:
    command = [sys.executable, "-m", "pipeline", "backfill", "--job", job, "--from", first, "--to", last, "--json"]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Backfill(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, wall)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--job", required=True, help="the name of a job, or its folder")
    parser.add_argument("--from", dest="first", required=True)
    parser.add_argument("--to", dest="last", required=True)
    parser.add_argument("--against", type=Path, help="another checkout of Lakescore")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    checkouts = [ROOT, *([given.against] if given.against else [])]
    found: dict[Path, list[Backfill]] = {checkout: [] for checkout in checkouts}
    for _ in range(given.repeats):
        for checkout in checkouts:
            with tempfile.TemporaryDirectory(prefix="lakescore-bench-") as temporary:
                copy = shutil.copytree(given.folder, Path(temporary) / "workspace")
                found[checkout].append(_backfill(checkout, copy, given.job, given.first, given.last))
    for checkout, runs in found.items():
        cpu, wall = median([each.cpu_s for each in runs]), median([each.wall_s for each in runs])
        print(f"{checkout}: {cpu:.1f} CPU s, {wall:.1f} s")  # noqa: T201
    if given.against:
        pairs = zip(found[ROOT], found[given.against], strict=True)
        print(f"ratio of CPU: {median([ours.cpu_s / theirs.cpu_s for ours, theirs in pairs]):.2f}")  # noqa: T201


if __name__ == "__main__":
    main()
