"""How much memory and how many threads DuckDB takes: what a job sets, or else what fits the columns and the machine.

A thread that reads Parquet holds a decoded page of each column, and each join a batch of all columns. So what DuckDB
needs grows with the number of columns and with its threads, while more rows are spilled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline import machine
from pipeline.storage.parquet import ROW_GROUP

if TYPE_CHECKING:
    from pipeline.job.config import Engine

LEAST = 350_000_000
"""Bytes for a few columns: enough to count 100M unique keys, and to join them, with spilling."""
BASE = 200_000_000
PER_THREAD = 25_000_000
"""Bytes that each thread takes, whatever the columns: its part of a hash table."""
PER_COLUMN = 600_000
"""Bytes that each thread takes per column: 122,880 floats in one page, the largest that DuckDB and pyarrow write by
default, as it is read and decoded. Doubles take twice as much; they fit with fewer threads."""
SHARE = 0.5
"""Largest share of the memory of this process; the rest is for the batches of the workers, torch and Arrow."""
PROCESS = 400_000_000
"""Bytes of a process that scores buckets, without DuckDB and rows: it imports torch, and holds the model."""

BATCH_ROWS = ROW_GROUP
BATCH_VALUES, MOST_VALUES = 1_500_000, 8_192_000
"""Number of values in one batch: 122,880 rows of up to 12 columns, fewer rows if there are more; and at most."""
BATCHES_SHARE, VALUE_BYTES = 0.25, 20
"""Largest share of the memory of this process for batches, and bytes per value: a worker holds up to five of them."""
VECTOR_ROWS = 2048
"""Number of rows that DuckDB works on at a time."""


@dataclass(frozen=True)
class Resources:
    memory_limit: str
    """Limit of the memory of DuckDB, as it takes it, such as `350MB`."""
    threads: int

    def __str__(self) -> str:
        return f"{self.memory_limit}, {self.threads} thread{'s' if self.threads > 1 else ''}"


def resources(engine: Engine, columns: int = 0, processes: int = 1) -> Resources:
    """Returns what DuckDB takes to read and join rows with a number of columns, in each of so many processes at once.

    A memory limit that is set is used as it is, by several processes up to the share of each. Otherwise it is what all
    threads need, at least 350 MB, and at most half of what the processes may use, divided by their number. There are
    as many threads as workers, or as many as fit into the memory limit.
    """
    workers = engine.threads or machine.usable_cores()
    each = PER_THREAD + PER_COLUMN * columns
    most = max(LEAST, int(SHARE * machine.usable_memory()) // processes)
    if engine.memory_limit is not None and (processes == 1 or machine.bytes_of(engine.memory_limit) <= most):
        return Resources(engine.memory_limit, _fitting(machine.bytes_of(engine.memory_limit), each, workers))
    wanted = most if engine.memory_limit is not None else max(LEAST, BASE + workers * each)
    limit = min(wanted, most)
    return Resources(f"{limit // 1_000_000}MB", _fitting(limit, each, workers))


def most_processes() -> int:
    """Returns how many processes that score buckets the memory has room for: at least one."""
    return max(1, machine.usable_memory() // (PROCESS + LEAST))


def batch_rows(columns: int, workers: int = 1) -> int:
    """Returns the number of rows of a batch whose numeric columns take about 6 MB: at most a row group's.

    From 180 columns on it has 8,192 rows, since each batch costs some microseconds per column; but at most 32 MB, and
    less if the batches of all workers would not fit into the memory of this process.
    """
    columns = max(1, columns)
    most = min(MOST_VALUES, int(BATCHES_SHARE * machine.usable_memory()) // (VALUE_BYTES * workers))
    return max(VECTOR_ROWS, min(BATCH_ROWS, max(BATCH_VALUES, min(8192 * columns, most)) // columns))


def _fitting(limit: int, each: int, workers: int) -> int:
    return max(1, min(workers, (limit - BASE) // each))
