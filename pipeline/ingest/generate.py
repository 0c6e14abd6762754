"""Synthetic days, for experiments and tests.

| column | distribution |
|---|---|
| `id` | `user_000000`, `user_000001`, ... |
| `age` | uniform over 18 to 79 years |
| `income` | lognormal(11, 0.5) |
| `tenure_days` | uniform over 1 to 999 |
| `num_purchases` | Poisson(5) |
| `avg_transaction_value` | lognormal(4, 0.8) |
| `days_since_last_purchase` | exponential with mean 30, not rounded |

Whole numbers are stored as int64 and the others as double: the types that an import from CSV or JSON would infer.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, repeat

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.context import Progress, silent
from pipeline.errors import UsageError, counted
from pipeline.ingest.publishing import UNSCORED, Existing, PublishedDay, staging
from pipeline.lake.layout import Lake
from pipeline.periods import Period
from pipeline.storage.parquet import ROW_GROUP

SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "age": pa.int64(),
        "income": pa.float64(),
        "tenure_days": pa.int64(),
        "num_purchases": pa.int64(),
        "avg_transaction_value": pa.float64(),
        "days_since_last_purchase": pa.float64(),
    }
)
FEW_VALUES = ["age", "tenure_days", "num_purchases"]
"""Columns worth dictionary-encoding; on the others it halves the writing speed and saves nothing."""


def generate_day(
    lake: Lake,
    ds: str,
    *,
    rows: int,
    files: int = 1,
    seed: int = 0,
    replace: bool = False,
    progress: Progress = silent,
) -> PublishedDay:
    """Writes a day below `unscored/`.

    The rows depend only on seed, day and `rows` (and on numpy's version), and a longer day starts with the rows of a
    shorter one. Raises UsageError if the day already has files and `replace` is not set; there is no append, because
    it would repeat the ids.
    """
    Period.parse(ds)
    if rows < 1 or not 1 <= files <= rows:
        raise UsageError("each file needs at least one row", got=f"{counted(rows, 'row')} in {counted(files, 'file')}")
    sizes = chain(repeat(rows // files + 1, rows % files), repeat(rows // files))
    with staging(lake, UNSCORED, Existing.replace if replace else Existing.refuse) as work:
        with work.writer(ds, SCHEMA, sizes, dictionary=FEW_VALUES) as writer:
            for batch in batches(ds, rows, seed):
                writer.write(batch)
                progress("generate", writer.rows, rows)
        return work.publish()[0]


def batches(ds: str, rows: int, seed: int = 0) -> Iterator[pa.RecordBatch]:
    """Yields the rows of a day, one row group at a time; each row group has its own random stream."""
    for number, first in enumerate(range(0, rows, ROW_GROUP)):
        stream = np.random.default_rng([seed, Period.parse(ds).number, number])
        yield _batch(stream, first).slice(0, rows - first)


def _batch(stream: np.random.Generator, first: int) -> pa.RecordBatch:
    columns = [
        _ids(np.arange(first, first + ROW_GROUP)),
        stream.integers(18, 80, ROW_GROUP),
        stream.lognormal(11, 0.5, ROW_GROUP),
        stream.integers(1, 1000, ROW_GROUP),
        stream.poisson(5, ROW_GROUP),
        stream.lognormal(4, 0.8, ROW_GROUP),
        stream.exponential(30, ROW_GROUP),
    ]
    return pa.record_batch([pa.array(column) for column in columns], schema=SCHEMA)


def _ids(numbers: np.ndarray[tuple[int], np.dtype[np.int64]]) -> pa.Array:
    digits = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), 6, "0")
    return pc.binary_join_element_wise("user_", digits, "")
