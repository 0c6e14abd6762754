-- The number of rows whose key occurs more than once.
-- Grain: one row.
-- Views: duplicates
SELECT coalesce(sum(copies), 0)::BIGINT AS rows FROM duplicates
