"""How a prediction is stored: its columns, and those that Lakescore adds to the model's outputs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.columns import is_output
from pipeline.selecting.triage import NO_FEATURES, REASONS, WITHDRAWN

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.selecting.triage import Triaged

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
"""Columns with dictionary encoding; on nearly unique columns it halves the speed of writing."""
ENCODED = ("run_id", "reason")
"""Text columns passed to the writer as dictionary arrays: otherwise it hashes every row, a quarter of its work."""


def stored_schema(columns: pa.Schema, key: Sequence[str], carry: Sequence[str], outputs: pa.Schema) -> pa.Schema:
    """Returns the schema of predictions: key, carried columns, outputs and `OURS`. `columns`: of the selected rows."""
    fields = [columns.field(name) for name in (*key, *carry)]
    return pa.schema([*fields, *outputs, *OURS])


def written_schema(stored: pa.Schema) -> pa.Schema:
    """Returns the schema of `stored_batch`, some of its text dictionary-encoded; files are read back as `stored`."""
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
    triaged: Triaged,
    prints: NDArray[np.int64],
    run_id: str,
    scored_at: datetime,
) -> pa.RecordBatch:
    """Builds the predictions to store. `rows`, `outputs` and `prints` hold the scored rows only.

    `schema` is a `written_schema`.
    """
    ours = {
        "scored_at": constant(pa.scalar(scored_at, pa.timestamp("us", "UTC")), rows.num_rows),
        "run_id": pa.DictionaryArray.from_arrays(np.zeros(rows.num_rows, np.int8), [run_id]),
        "reason": pa.DictionaryArray.from_arrays(triaged.reasons, list(REASONS)),
        "fingerprint": prints,
        "revision": triaged.revisions,
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


def withdrawn_batch(rows: pa.RecordBatch, run_id: str, at: datetime) -> pa.RecordBatch:
    """Builds the rows that say that their keys have left the input, from the newest stored row of each key.

    They have the same columns: key and carried values as stored, no outputs, and the next revision.
    """
    ours = {
        "scored_at": constant(pa.scalar(at, pa.timestamp("us", "UTC")), rows.num_rows),
        "run_id": constant(pa.scalar(run_id), rows.num_rows),
        "reason": constant(pa.scalar(WITHDRAWN), rows.num_rows),
        "fingerprint": constant(pa.scalar(NO_FEATURES, pa.int64()), rows.num_rows),
        "revision": pc.add(rows.column("revision"), pa.scalar(1, pa.int32())),
    }
    for field in rows.schema:
        if is_output(field.name):
            ours[field.name] = pa.nulls(rows.num_rows, field.type)
    arrays = [ours[field.name] if field.name in ours else rows.column(field.name) for field in rows.schema]
    return pa.RecordBatch.from_arrays(arrays, schema=rows.schema)


def constant(value: pa.Scalar, rows: int) -> pa.Array:
    return pa.repeat(value, rows)
