"""Compares two lakes by what they hold, with DuckDB alone: nothing of Lakescore reads here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb

TOLERANCE = 1e-6
"""Largest difference of a number that a model returns: batches of other rows are added up in another order."""
OWN = ("scored_at", "run_id", "quarantined_at", "profiled_at")
"""Columns that differ from run to run."""


def rows_of(lake: Path, folder: str) -> list[dict[str, Any]]:
    """Returns all rows of the files below a folder of a lake, sorted, without the columns that are of one run only."""
    files = sorted(str(path) for path in lake.glob(f"{folder}/**/*.parquet"))
    if not files:
        return []
    query = "SELECT * FROM read_parquet($files, union_by_name = true, hive_partitioning = false)"
    with duckdb.connect() as con:
        table = con.sql(query, params={"files": files}).to_arrow_table()
    rows = [{name: value for name, value in row.items() if name not in OWN} for row in table.to_pylist()]
    for row in rows:
        if "reasons" in row:
            row["reasons"] = sorted(row["reasons"])
    return sorted(rows, key=repr)


def sort_key(row: dict[str, Any], names: tuple[str, ...]) -> str:
    return repr([row[name] for name in (*names, "revision", "reason") if name in row])


def check_equal(found: Path, expected: Path, key: tuple[str, ...] = ("id",)) -> int:
    """Asserts that two lakes hold the same predictions and quarantined rows; returns the number of predictions.

    Everything must be equal but the numbers of the model, which may differ by `TOLERANCE`.
    """
    quarantined = [list(map(repr, rows_of(lake, "quarantine"))) for lake in (found, expected)]  # NaN equals NaN as text
    assert quarantined[0] == quarantined[1]
    both = [sorted(rows_of(lake, "predictions"), key=lambda row: sort_key(row, key)) for lake in (found, expected)]
    assert len(both[0]) == len(both[1])
    for mine, theirs in zip(*both, strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            assert same(value, theirs[name]), f"{name} of {mine}: {value} and {theirs[name]}"
    return len(both[0])


def same(value: Any, other: Any) -> bool:
    if isinstance(value, float) and isinstance(other, float):
        return abs(value - other) <= TOLERANCE or value == other
    if isinstance(value, list) and isinstance(other, list):
        return len(value) == len(other) and all(map(same, value, other))
    return bool(value == other) and type(value) is type(other)
