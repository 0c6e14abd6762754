"""Days scored by each engine: CPU seconds of each stage, and whether what they leave behind is the same.

A Spark cluster of two workers and a Connect server run on loopback, beside the run itself, so CPU seconds count here,
and wall time does not. The results are compared by DuckDB alone, row by row.

python -m tests.benchmarks cluster --rows 5000000 20000000      the smallest also with half stored and 1% changed
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from tests.benchmarks import shapes, workspaces
from tests.benchmarks.measuring import in_environment, machine, markdown, write_section
from tests.benchmarks.parts import DAY
from tests.engines.cluster import connect_server, standalone

ENGINE = '\n[engine]\nname = "{name}"\nmin_rows = 1\n'
BUCKET_ROWS = 1_000_000
MB = 1e6
TOLERANCE = 1e-6
STAGES = ("plan", "load", "score", "commit")
WIDE_ROWS = 5_000_000
CHANGED = """
SELECT * REPLACE (CASE WHEN hash(id) % 100 = 0 THEN age + 1 ELSE age END AS age) FROM read_parquet($files)
"""
HALF = "SELECT * FROM read_parquet($files) WHERE hash(id) % 2 = 0"
COMPARED = """
SELECT
    count(*) AS rows, count(a.id) AS mine, count(b.id) AS others,
    count_if(a.fingerprint <> b.fingerprint) AS fingerprints, count_if(a.prediction <> b.prediction) AS predictions,
    count_if(a.reason <> b.reason) AS reasons, max(abs(a.prediction_proba - b.prediction_proba)) AS difference
FROM read_parquet($mine) AS a FULL JOIN read_parquet($others) AS b ON a.id = b.id AND a.revision = b.revision
"""


@dataclass(frozen=True)
class Run:
    stages: dict[str, float]
    """CPU seconds by stage, those of tasks included."""
    peak_bytes: int


class Benchmark:
    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.found: dict[str, dict[str, Run]] = {}

    def run(self, name: str, place: Path, engine: str, variables: Mapping[str, str] | None = None) -> None:
        """Runs a day in a copy of its workspace, and compares the result with that of the threads, which come first."""
        folder = self.scratch / "runs" / place.name / engine
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(place, folder, copy_function=os.link)
        if engine != "threads":
            toml = folder / "dags" / "jobs" / workspaces.CORE / "job.toml"
            text = toml.read_text() + ENGINE.format(name="spark" if engine == "connect" else engine)
            toml.unlink()
            toml.write_text(text + (f"buckets = {_buckets(place)}\n" if engine == "connect" else ""))
        record = _execute(folder, {} if variables is None else variables)
        stages = {each["stage"]: each["cpu_s"] for each in record["stages"]}
        done = Run({each: stages.get(each, 0.0) for each in STAGES}, record["peak_memory_bytes"])
        self.found.setdefault(name, {})[engine] = done
        print(name, engine, done, flush=True)  # noqa: T201
        if engine != "threads":
            compare(folder, folder.parent / "threads")
            shutil.rmtree(folder)


def run(scratch: Path, rows: list[int], _repeats: int) -> None:
    """Runs the days of the smallest of `rows` once by each engine, the others by threads and on the cluster.

    Raises AssertionError if two engines leave different rows or ledgers.
    """
    days = {}
    for count in sorted(rows):
        days[f"{count / 1e6:g}M rows, first"] = place = workspaces.make(scratch, count)
        if count == min(rows):
            days[f"{count / 1e6:g}M rows, half stored, 1% of them changed"] = half_stored(place, scratch / "half")
    spark = scratch / "spark"
    shutil.rmtree(spark, ignore_errors=True)
    with standalone(spark) as cluster:
        done = Benchmark(scratch)
        for number, (name, place) in enumerate(days.items()):
            done.run(name, place, "threads")
            if number < 2:
                done.run(name, place, "processes")
            done.run(name, place, "spark", cluster.environment)
        with connect_server(cluster, spark) as address:
            for name, place in days.items():
                done.run(name, place, "connect", {**cluster.environment, "LAKESCORE_SPARK": address})
        count = min(WIDE_ROWS, *rows)
        place = shapes.lay_out(scratch, "wide", count)
        (place / "dags" / "jobs" / "wide").rename(place / "dags" / "jobs" / workspaces.CORE)
        for engine in ("threads", "processes"):
            done.run(f"{count / 1e6:g}M rows of 200 columns, first", place, engine)
    write_section("cluster", f"{machine()}. CPU seconds, one run each.\n\n{_table(done.found)}")


def half_stored(place: Path, folder: Path) -> Path:
    """Returns a copy in which half of the rows are stored, and 1% of all rows have changed since."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(place, folder)
    day = workspaces.day(folder)
    files = sorted(str(path) for path in day.glob("*.parquet"))
    whole, half = folder / "whole.parquet", day / "half.parquet"
    with duckdb.connect() as con:
        for query, path in ((CHANGED, whole), (HALF, half)):
            con.sql(query, params={"files": files}).write_parquet(str(path), compression="zstd")
    for file in files:
        Path(file).unlink()
    _execute(folder, {})
    half.unlink()
    whole.rename(day / "whole.parquet")
    return folder


def _execute(folder: Path, variables: Mapping[str, str]) -> dict[str, Any]:
    """Runs a day in a process of its own; returns the run record."""
    command = [sys.executable, "-m", "pipeline", "run", "--job", workspaces.CORE, "--date", DAY]
    environment = {**in_environment(), **variables}
    subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=True)
    record = newest_record(folder)
    assert record["state"] == "complete", record["state"]
    return record


def newest_record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(max((folder / "lake" / "runs").rglob("*.json")).read_text())
    return found


def compare(folder: Path, other: Path) -> None:
    """Raises AssertionError unless two workspaces hold the same predictions, and their last runs the same ledger."""
    mine, others = (str(each / "lake" / "predictions" / "**" / "*.parquet") for each in (folder, other))
    with duckdb.connect(config={"memory_limit": "6GB"}) as con:
        query = con.sql(COMPARED, params={"mine": mine, "others": others})
        found = dict(zip(query.columns, query.fetchall()[0], strict=True))
    print(folder.name, found, flush=True)  # noqa: T201
    assert found["rows"] == found["mine"] == found["others"] > 0, found
    assert found["fingerprints"] == found["predictions"] == found["reasons"] == 0, found
    assert found["difference"] <= TOLERANCE, found
    assert newest_record(folder)["ledger"] == newest_record(other)["ledger"]


def _buckets(place: Path) -> int:
    """Returns the number of buckets for a Connect server, which does not say how many cores it has."""
    with duckdb.connect() as con:
        query = "SELECT count(*) FROM read_parquet($files)"
        rows = con.sql(query, params={"files": str(workspaces.day(place) / "*.parquet")}).fetchall()[0][0]
    return max(2, -(-int(rows) // BUCKET_ROWS))


def _table(found: Mapping[str, Mapping[str, Run]]) -> str:
    lines: list[list[object]] = []
    for day, runs in found.items():
        for number, (engine, each) in enumerate(runs.items()):
            stages = [f"{each.stages[name]:.1f}" for name in STAGES]
            total = sum(each.stages.values())
            ratio = total / sum(runs["threads"].stages.values())
            figures = [f"**{total:.1f}**", f"{ratio:.2f}", f"{each.peak_bytes / MB:,.0f}"]
            lines.append([day if number == 0 else "", engine, *stages, *figures])
    columns = ["", "engine", *STAGES, "**sum**", "x threads", "peak MB of one process"]
    return markdown(columns, lines)
