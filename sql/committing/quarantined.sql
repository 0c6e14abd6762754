-- The rows that the run rejected.
-- Grain: one row.
-- Views: rejected
SELECT count(*) AS rows, coalesce(sum(hash(__key)), 0) AS hash_sum FROM rejected
