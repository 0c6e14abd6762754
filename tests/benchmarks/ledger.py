"""What the ledger's `unchanged` rows of a rewritten day cost: by sums of hashes, and by the join that these replace."""

from __future__ import annotations

import time
from pathlib import Path

from pipeline.database import sql_files
from pipeline.database.connection import connect
from tests.benchmarks.measuring import machine, markdown, median, write_section

SHARES = ((0, 0), (1, 0), (10, 0), (50, 0), (0, 1), (0, 100))
"""Per cent of the rows that are new, and that have changed."""
JOIN = ("unchanged",)
SUMS = ("sums_of_new", "sums_of_latest", "sums_of_selected", "known_touched")
KEYS = """
    SELECT 'user-' || hash(range) AS __key, hash(range) % 100 AS part FROM range({rows})
"""


def run(scratch: Path, rows: list[int], repeats: int) -> None:
    """Measures the smallest of `rows`; both must give the same rows and hash sum."""
    count = min(rows)
    found = [_measure(scratch, count, new, changed, repeats) for new, changed in SHARES]
    columns = [
        f"of {count / 1e6:g}M rows",
        *(f"{new}% new" if new else f"{changed}% changed" for new, changed in SHARES),
    ]
    lines: list[list[object]] = [
        ["join of all rows, CPU s", *(f"{join:.2f}" for join, _ in found)],
        ["sums, CPU s", *(f"{sums:.2f}" for _, sums in found)],
        ["**ratio**", *(f"**{sums / join:.2f}**" for join, sums in found)],
    ]
    text = f"{machine()}. Text keys, two threads and 350 MB for DuckDB; medians of {repeats} runs, taken in turn."
    write_section("ledger", f"{text}\n\n{markdown(columns, lines)}")


def _measure(scratch: Path, rows: int, new: int, changed: int, repeats: int) -> tuple[float, float]:
    scratch.mkdir(parents=True, exist_ok=True)
    with connect("350MB", 2) as con:
        for name, condition in (
            ("selected", "true"),
            ("stored", f"part >= {new}"),
            ("staged", f"part < {new} OR part >= {100 - changed}"),
        ):
            path = scratch / f"ledger-{name}.parquet"
            keys = con.sql(KEYS.format(rows=rows)).filter(condition)
            keys.select(f"__key, (part >= {new} AND '{name}' = 'staged')::INTEGER AS revision").write_parquet(str(path))
            con.read_parquet(str(path)).create_view(name)
        for name in ("rejected", "meanwhile"):
            con.view("staged").select("__key").filter("false").create_view(name)
        con.sql(sql_files.load("selecting/latest")).create_view("latest")
        joins, sums = [], []
        for _ in range(repeats):
            began = time.process_time()
            (expected,) = (con.sql(sql_files.load(f"committing/{query}")).fetchall()[0] for query in JOIN)
            joins.append(time.process_time() - began)
            began = time.process_time()
            answers = [con.sql(sql_files.load(f"committing/{query}")).fetchall()[0] for query in SUMS]
            sums.append(time.process_time() - began)
            _, stored, _, touched = answers
            assert expected == (stored[0] - touched[0], stored[1] - touched[1])
    return median(joins), median(sums)
