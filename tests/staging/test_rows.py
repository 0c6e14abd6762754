"""The schema of stored predictions: what Lakescore adds is never missing."""

from __future__ import annotations

import pyarrow as pa

from pipeline.staging.rows import OURS, rejected_schema, stored_schema


def test_columns_that_lakescore_adds_are_never_null() -> None:
    columns = pa.schema([pa.field("id", pa.int64()), pa.field("country", pa.string())])
    stored = stored_schema(
        columns, ["id"], ["country"], pa.schema([pa.field("prediction", pa.string(), nullable=False)])
    )
    assert stored.names == ["id", "country", "prediction", "scored_at", "run_id", "reason", "fingerprint", "revision"]
    assert [stored.field(name).nullable for name in OURS.names] == [False] * 5
    rejected = rejected_schema(columns, ["id", "country"])
    assert not rejected.field("run_id").nullable
    assert not rejected.field("reasons").nullable
