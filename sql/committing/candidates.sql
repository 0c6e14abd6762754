-- Every row of the input.
-- Grain: one row.
-- Views: candidates
SELECT count(*) AS rows, coalesce(sum(hash(__key)), 0) AS hash_sum FROM candidates
