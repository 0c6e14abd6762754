-- The exact copies of rows, beyond the first of each key.
-- Grain: one row.
-- Views: duplicates
SELECT
    coalesce(sum(copies - 1), 0) AS rows,
    coalesce(sum(hash(__key)::HUGEINT * (copies - 1)), 0) AS hash_sum
FROM duplicates WHERE NOT conflicting
