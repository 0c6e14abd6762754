"""The parts of a first scoring, each alone: `python -m tests.benchmarks.parts PART WORKSPACE`.

They are what any implementation must do at least: read the columns, prove that the keys are unique, run the network,
write the result. All read or make the same rows with the same columns as the run does.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pipeline.database import connection
from tests.benchmarks.measuring import measure, report

DAY = "2026-01-01"
BATCH = 122_880
SLICE = 8192
FEATURES = "age, income, tenure_days, num_purchases, avg_transaction_value, days_since_last_purchase"


def scan(workspace: Path) -> Callable[[], object]:
    """DuckDB to Arrow batches: key and features."""

    def work() -> None:
        with connection() as con:
            rows = con.sql(f"SELECT id, {FEATURES} FROM read_parquet($p)", params={"p": _files(workspace)})
            for _ in rows.to_arrow_reader(BATCH):
                pass

    return work


def uniqueness(workspace: Path) -> Callable[[], object]:
    """The cheapest proof in SQL that we know of that no key stands twice."""

    def work() -> None:
        with connection() as con:
            query = "SELECT count(id) = count(DISTINCT hash(id)) FROM read_parquet($p)"
            assert con.sql(query, params={"p": _files(workspace)}).fetchall() == [(True,)]

    return work


def forward(workspace: Path) -> Callable[[], object]:
    """A bare torch loop over a tensor in memory: network, softmax, the likeliest class and its probability."""
    network = torch.nn.Sequential(
        torch.nn.Linear(6, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 2)
    ).eval()
    torch.set_num_threads(1)
    matrix = torch.rand(_rows(workspace), 6)
    probabilities = torch.empty(len(matrix), 2)
    best, index = torch.empty(len(matrix)), torch.empty(len(matrix), dtype=torch.int64)

    def work() -> None:
        with torch.inference_mode():
            for start in range(0, len(matrix), SLICE):
                scored = torch.softmax(network(matrix[start : start + SLICE]), dim=1)
                probabilities[start : start + SLICE] = scored
                best[start : start + SLICE], index[start : start + SLICE] = scored.max(dim=1)

    return work


def write(workspace: Path) -> Callable[[], object]:
    """pyarrow, zstd, the columns of a stored prediction."""
    rows = _rows(workspace)
    rng = np.random.default_rng(0)
    first = rng.random(rows, np.float32)
    stamp = pa.scalar(datetime.now(UTC), pa.timestamp("us", "UTC"))
    with duckdb.connect() as con:
        ids = con.sql(f"SELECT format('user_{{:06d}}', i) AS id FROM range({rows}) t(i)").to_arrow_table()
    columns = {
        "id": ids.column("id"),
        "prediction": (first < 0.5).astype(np.int64),
        "prediction_proba": np.maximum(first, 1 - first),
        "prob_class_0": first,
        "prob_class_1": 1 - first,
        "scored_at": pa.repeat(stamp, rows),
        "run_id": pa.repeat("20260101T000000000Z-00000000", rows),
        "reason": pa.repeat("new", rows),
        "fingerprint": rng.integers(-(2**63), 2**63, rows),
        "revision": np.zeros(rows, np.int32),
    }
    table = pa.table(columns)
    few = ["prediction", "scored_at", "run_id", "reason", "revision"]
    path = workspace / "written.parquet"

    def work() -> None:
        pq.write_table(table, path, compression="zstd", use_dictionary=few, row_group_size=BATCH)

    return work


def _files(workspace: Path) -> list[str]:
    return [str(path) for path in (workspace / "lake" / "unscored" / f"ds={DAY}").glob("*.parquet")]


def _rows(workspace: Path) -> int:
    return sum(pq.read_metadata(path).num_rows for path in _files(workspace))


PARTS = {part.__name__: part for part in (scan, uniqueness, forward, write)}

if __name__ == "__main__":
    report(measure(PARTS[sys.argv[1]](Path(sys.argv[2]))))
