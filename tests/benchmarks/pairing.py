"""What a day costs that was written again, with its stored rows paired by position, and with a join of all rows."""

from __future__ import annotations

import dataclasses
import shutil
import sys
import time
from collections import defaultdict
from pathlib import Path
from unittest.mock import patch

import duckdb

from pipeline.context import Context
from pipeline.job.loading import find_job
from pipeline.records import RunRecord
from pipeline.selecting import pair_search
from pipeline.selecting.plan import plan
from pipeline.settings import Settings
from pipeline.staging.folders import discard_staging
from tests.benchmarks import slope, workspaces
from tests.benchmarks.measuring import machine, markdown, write_section
from tests.benchmarks.parts import DAY
from tests.stages import stage

SHUFFLED, AMONG = "0%, shuffled", "10%, among the rest"
CASES = {"0%": 0.0, "1%": 0.01, "10%": 0.1, AMONG: 0.1, "50%": 0.5, "100%": 1.0, SHUFFLED: 0.0}
WAYS = {"join": sys.maxsize, "pairs": pair_search.LEAST_ROWS}
"""The number of rows from which they are paired."""


def run(scratch: Path, rows: list[int], repeats: int) -> None:
    """Measures the smallest of `rows`, each case both ways in turn, in this process; the dispositions must agree."""
    count = min(rows)
    folder = workspaces.make(scratch, count)
    whole = folder / "whole"
    workspaces.day(folder).rename(whole)
    found = {case: _measure(folder, whole, case, share, repeats) for case, share in CASES.items()}
    joined, paired = ({case: each[way] for case, each in found.items()} for way in WAYS)
    first = joined["100%"]["all"]
    columns = [f"CPU s, of {count / 1e6:g}M rows, new", *CASES]
    lines: list[list[object]] = [
        ["score, join of all rows", *(f"{each['score']:.2f}" for each in joined.values())],
        ["score, paired by position", *(f"{each['score']:.2f}" for each in paired.values())],
        ["**ratio**", *(f"**{paired[case]['score'] / joined[case]['score']:.2f}**" for case in CASES)],
        ["plan, score and commit, x first scoring: join", *(f"{each['all'] / first:.2f}" for each in joined.values())],
        ["**paired by position**", *(f"**{each['all'] / first:.2f}**" for each in paired.values())],
    ]
    text = f"{machine()}. The least of {repeats} runs, taken in turn."
    write_section("pairing", f"{text}\n\n{markdown(columns, lines)}")


def _measure(folder: Path, whole: Path, case: str, share: float, repeats: int) -> dict[str, dict[str, float]]:
    slope.write_share(folder, whole, share)
    if case == SHUFFLED:
        with duckdb.connect() as con:
            rows = con.sql("SELECT * FROM read_parquet($p) ORDER BY hash(id)", params={"p": f"{whole}/*.parquet"})
            rows.write_parquet(str(workspaces.day(folder) / "early.parquet"), compression="zstd")
    if case == AMONG:
        shutil.rmtree(workspaces.day(folder))
        shutil.copytree(whole, workspaces.day(folder))
    settings = dataclasses.replace(
        Settings.from_environment(),
        lake=str(folder / "lake"),
        jobs=folder / "dags" / "jobs",
        models=str(folder / "models"),
    )
    ctx = Context.open(find_job(workspaces.CORE, settings), settings)
    spent: dict[str, dict[str, list[float]]] = {way: defaultdict(list) for way in WAYS}
    seen = set()
    base = {path: path.read_bytes() for path in (folder / "lake" / "predictions").rglob("*") if path.is_file()}
    for each in range(repeats + 1):  # the first one warms up
        for way, least in WAYS.items():
            with patch.object(pair_search, "LEAST_ROWS", least):
                record, seconds = _run(ctx)
            seen.add(tuple(sorted(record.dispositions.items())))
            if each:
                spent[way]["score"].append(seconds["score"])
                spent[way]["all"].append(sum(seconds.values()))
            _forget(ctx, folder, base, record)
    assert len(seen) == 1, seen
    return {way: {name: min(values) for name, values in found.items()} for way, found in spent.items()}


def _run(ctx: Context) -> tuple[RunRecord, dict[str, float]]:
    """Returns the CPU seconds of each stage of a run, without the import of torch."""
    began = time.process_time()
    record = plan(ctx, DAY)
    spent = {"plan": time.process_time() - began}
    for name in ("score", "commit"):
        began = time.process_time()
        record = stage(ctx, record, name)
        spent[name] = time.process_time() - began
    return record, spent


def _forget(ctx: Context, folder: Path, base: dict[Path, bytes], record: RunRecord) -> None:
    """Puts the predictions back as they were before the run."""
    discard_staging(ctx, record)
    shutil.rmtree(folder / "lake" / "predictions", ignore_errors=True)
    for path, content in base.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
