-- The rows that no suppression list names.
-- Grain: one row per key.
-- Views: scored, suppressed
SELECT r.* FROM scored AS r
ANTI JOIN suppressed AS s ON s.__key = r.__key
