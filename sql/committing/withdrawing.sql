-- The rows by which the run marks withdrawn keys, as it has staged them.
-- Grain: one row.
-- Views: withdrawing
SELECT count(*) AS rows, coalesce(sum(hash(__key)), 0) AS hash_sum FROM withdrawing
