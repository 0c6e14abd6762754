"""How a prediction is stored: its columns, and what we add to those of the model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipeline.dispositions import REASONS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.dispositions import Judged

OURS = pa.schema(
    [
        pa.field("scored_at", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("fingerprint", pa.int64(), nullable=False),
        pa.field("revision", pa.int32(), nullable=False),
    ]
)
LISTS = ("prediction.list.element", "top_items.list.element")
FEW_VALUES = ("prediction", *LISTS, "scored_at", "run_id", "reason", "revision")
"""Columns worth a dictionary; on nearly unique ones it halves the speed of writing."""
ENCODED = ("run_id", "reason")
"""Text of few values, handed to the writer as a dictionary: else it hashes it row by row, a quarter of all its work."""


def stored_schema(columns: pa.Schema, key: Sequence[str], carry: Sequence[str], outputs: pa.Schema) -> pa.Schema:
    """Returns key and carried columns, those of the model, and ours. `columns` is the schema of the selected rows."""
    fields = [columns.field(name) for name in (*key, *carry)]
    return pa.schema([*fields, *outputs, *OURS])


def written_schema(stored: pa.Schema) -> pa.Schema:
    """Returns the schema of `stored_batch`; what is written by it is read as `stored`."""
    encoded = pa.dictionary(pa.int8(), pa.string())
    return pa.schema([field.with_type(encoded) if field.name in ENCODED else field for field in stored])


def rejected_schema(columns: pa.Schema, names: Iterable[str]) -> pa.Schema:
    fields = [columns.field(name) for name in names]
    reasons = pa.field("reasons", pa.list_(pa.string()), nullable=False)
    return pa.schema([*fields, reasons, OURS.field("run_id"), pa.field("quarantined_at", pa.timestamp("us", "UTC"))])


def stored_batch(
    schema: pa.Schema,
    rows: pa.RecordBatch,
    outputs: pa.RecordBatch,
    judged: Judged,
    prints: NDArray[np.int64],
    run_id: str,
    scored_at: datetime,
) -> pa.RecordBatch:
    """Puts predictions together. `rows` and `prints` hold the scored rows only; the outputs are as long.

    `schema` is a `written_schema`.
    """
    ours = {
        "scored_at": constant(pa.scalar(scored_at, pa.timestamp("us", "UTC")), rows.num_rows),
        "run_id": pa.DictionaryArray.from_arrays(np.zeros(rows.num_rows, np.int8), [run_id]),
        "reason": pa.DictionaryArray.from_arrays(judged.reasons, list(REASONS)),
        "fingerprint": prints,
        "revision": judged.revisions,
    }
    arrays = []
    for field in schema:
        values = ours.get(field.name)
        if values is None:
            values = outputs.column(field.name) if field.name in outputs.schema.names else rows.column(field.name)
        arrays.append(pa.array(values, field.type) if isinstance(values, np.ndarray) else values)
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def rejected_batch(
    schema: pa.Schema, rows: pa.RecordBatch, reasons: pa.Array, run_id: str, at: datetime
) -> pa.RecordBatch:
    ours = {
        "reasons": reasons,
        "run_id": constant(pa.scalar(run_id), rows.num_rows),
        "quarantined_at": constant(pa.scalar(at, pa.timestamp("us", "UTC")), rows.num_rows),
    }
    arrays = [ours[field.name] if field.name in ours else rows.column(field.name) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def constant(value: pa.Scalar, rows: int) -> pa.Array:
    return pa.repeat(value, rows)
