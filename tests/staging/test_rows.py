"""The schema of stored predictions: what Lakescore adds is never missing."""

from __future__ import annotations

import pyarrow as pa

from pipeline.records import now
from pipeline.selecting.triage import NO_FEATURES, WITHDRAWN
from pipeline.staging.rows import OURS, rejected_batch, rejected_schema, stored_schema, withdrawn_batch


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


def test_mark_of_a_withdrawn_key_keeps_what_is_carried_and_has_no_output() -> None:
    at = now()
    stored = pa.RecordBatch.from_pydict(
        {
            "id": ["u1"],
            "country": ["ch"],
            "prediction": [1],
            "prob_class_0": pa.array([0.25], pa.float32()),
            "scored_at": pa.array([at.replace(year=2020)], pa.timestamp("us", "UTC")),
            "run_id": ["before"],
            "reason": ["new"],
            "fingerprint": [17],
            "revision": pa.array([3], pa.int32()),
        }
    )
    marked = withdrawn_batch(stored, "mine", at)
    assert marked.schema == stored.schema
    ours = {"scored_at": at, "run_id": "mine", "reason": WITHDRAWN, "fingerprint": NO_FEATURES, "revision": 4}
    assert marked.to_pylist() == [{"id": "u1", "country": "ch", "prediction": None, "prob_class_0": None, **ours}]


def test_rejected_row_keeps_its_columns_and_says_why_when_and_by_which_run() -> None:
    at, rows = now(), pa.RecordBatch.from_pydict({"id": ["u1", "u2"], "a": [1.0, None]})
    reasons = pa.array([["a is odd"], ["a is NULL", "late"]], pa.list_(pa.string()))
    schema = rejected_schema(rows.schema, rows.schema.names)
    found = rejected_batch(schema, rows, reasons, "mine", at).to_pylist()
    ours = {"run_id": "mine", "quarantined_at": at}
    assert [{name: row[name] for name in ("id", "a", "reasons", *ours)} for row in found] == [
        {"id": "u1", "a": 1.0, "reasons": ["a is odd"], **ours},
        {"id": "u2", "a": None, "reasons": ["a is NULL", "late"], **ours},
    ]
