-- The run records, parsed; other fields of a record are ignored.
-- Grain: one row per run.
-- Views: run_files
SELECT unnest(from_json(content, '{
    "run_id": "VARCHAR",
    "job": "VARCHAR",
    "ds": "VARCHAR",
    "state": "VARCHAR",
    "model": {"name": "VARCHAR", "version": "VARCHAR", "digest": "VARCHAR"},
    "plan": {"key": ["VARCHAR"]},
    "started_at": "TIMESTAMPTZ",
    "finished_at": "TIMESTAMPTZ",
    "committed": [{"size": "BIGINT"}],
    "ledger": {
        "candidates": {"rows": "BIGINT", "hash_sum": "HUGEINT"},
        "scored": {"rows": "BIGINT", "hash_sum": "HUGEINT"},
        "unchanged": {"rows": "BIGINT", "hash_sum": "HUGEINT"},
        "quarantined": {"rows": "BIGINT", "hash_sum": "HUGEINT"},
        "duplicates": {"rows": "BIGINT", "hash_sum": "HUGEINT"},
        "overtaken": {"rows": "BIGINT", "hash_sum": "HUGEINT"}
    },
    "carried_left": "BIGINT",
    "withdrawn": "BIGINT",
    "marked": {"rows": "BIGINT"},
    "statistics": {"classes": "JSON", "reasons": "JSON", "mean_confidence": "DOUBLE", "values": "JSON", "items": "BIGINT"},
    "stages": [{
        "stage": "VARCHAR",
        "wall_s": "DOUBLE",
        "cpu_s": "DOUBLE",
        "rows": "BIGINT",
        "busy": {"read": "DOUBLE", "judge": "DOUBLE", "forward": "DOUBLE", "write": "DOUBLE", "gpu": "DOUBLE"},
        "bytes_read": "BIGINT",
        "bytes_written": "BIGINT"
    }],
    "peak_memory_bytes": "BIGINT",
    "host": "VARCHAR",
    "warnings": ["VARCHAR"],
    "error": "VARCHAR"
}'))
FROM stored.run_files
