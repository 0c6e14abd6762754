-- The delivery records, parsed; other fields of a record are ignored.
-- Grain: one row per delivery.
-- Views: delivery_files
SELECT unnest(from_json(content, '{
    "job": "VARCHAR",
    "ds": "VARCHAR",
    "run_id": "VARCHAR",
    "target": "VARCHAR",
    "kind": "VARCHAR",
    "state": "VARCHAR",
    "rows": "BIGINT",
    "at": "TIMESTAMPTZ",
    "delivered_at": "TIMESTAMPTZ",
    "model": {"name": "VARCHAR", "version": "VARCHAR", "digest": "VARCHAR"},
    "digest": "VARCHAR",
    "place": "VARCHAR",
    "attempts": "BIGINT",
    "reason": "VARCHAR",
    "details": "JSON"
}'))
FROM stored.delivery_files
