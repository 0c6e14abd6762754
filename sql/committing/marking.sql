-- The rows by which the run marks withdrawn keys, as it has published them.
-- Grain: one row.
-- Views: marking
SELECT count(*) AS rows, coalesce(sum(hash(__key)), 0) AS hash_sum FROM marking
