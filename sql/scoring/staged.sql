-- What the run has staged.
-- Grain: one row.
-- Views: staged
SELECT count(*) AS rows, coalesce(sum(hash(__key)), 0) AS hash_sum FROM staged
