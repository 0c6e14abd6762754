-- The number of surplus rows, beyond the first of each key and revision.
-- Grain: one row.
-- Views: stored
SELECT coalesce(sum(copies - 1), 0)::BIGINT AS doubled
FROM (SELECT count(*) AS copies FROM stored GROUP BY __key, revision) AS counted
