"""The parts of a first scoring, each alone: `python -m tests.benchmarks.parts PART WORKSPACE`.

They are what any implementation must do at least: read the columns, prove that the keys are unique, run the network,
write the result. All read or make the same rows with the same columns as the run does, and keep all cores busy: a core
that shares its caches does less in a second of CPU than one that has them to itself.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pipeline.database.connection import connect
from pipeline.machine import usable_cores
from tests.benchmarks.measuring import measure, report

DAY = "2026-01-01"
BATCH = 122_880
SLICE = 4096
"""The fastest of the powers of two here: tensors of twice the size are given back to the system after each layer."""
FEATURES = "age, income, tenure_days, num_purchases, avg_transaction_value, days_since_last_purchase"


def scan(workspace: Path) -> Callable[[], object]:
    """DuckDB to Arrow batches: key and features."""

    def work() -> None:
        with connect() as con:
            rows = con.sql(f"SELECT id, {FEATURES} FROM read_parquet($p)", params={"p": _files(workspace)})
            for _ in rows.to_arrow_reader(BATCH):
                pass

    return work


def uniqueness(workspace: Path) -> Callable[[], object]:
    """The cheapest proof in SQL that we know of that no key stands twice."""

    def work() -> None:
        with connect() as con:
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

    def work(begin: int, end: int) -> None:
        with torch.inference_mode():
            for start in range(begin, end, SLICE):
                stop = min(start + SLICE, end)
                scored = torch.softmax(network(matrix[start:stop]), dim=1)
                probabilities[start:stop] = scored
                best[start:stop], index[start:stop] = scored.max(dim=1)

    return lambda: _on_all_cores(work, len(matrix))


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
        "run_id": pa.DictionaryArray.from_arrays(np.zeros(rows, np.int8), ["20260101T000000000Z-00000000"]),
        "reason": pa.DictionaryArray.from_arrays(np.zeros(rows, np.int8), ["new"]),
        "fingerprint": rng.integers(-(2**63), 2**63, rows),
        "revision": np.zeros(rows, np.int32),
    }
    table = pa.table(columns)
    few = ["prediction", "scored_at", "run_id", "reason", "revision"]

    def work(begin: int, end: int) -> None:
        path = workspace / f"written-{begin}.parquet"
        part = table.slice(begin, end - begin)
        pq.write_table(part, path, compression="zstd", use_dictionary=few, row_group_size=BATCH)

    return lambda: _on_all_cores(work, rows)


def _on_all_cores(work: Callable[[int, int], None], rows: int) -> None:
    """Gives each core an equal range of rows."""
    cores = usable_cores()
    edges = [rows * core // cores for core in range(cores + 1)]
    with ThreadPoolExecutor(cores) as pool:
        for done in [pool.submit(work, begin, end) for begin, end in pairwise(edges)]:
            done.result()


def _files(workspace: Path) -> list[str]:
    return [str(path) for path in (workspace / "lake" / "unscored" / f"ds={DAY}").glob("*.parquet")]


def _rows(workspace: Path) -> int:
    return sum(pq.read_metadata(path).num_rows for path in _files(workspace))


PARTS = {part.__name__: part for part in (scan, uniqueness, forward, write)}

if __name__ == "__main__":
    report(measure(PARTS[sys.argv[1]](Path(sys.argv[2]))))
