-- Counts the distinct values of a column, and those of them that float32 rounds to the same number as another one.
-- Grain: one row.
-- Views: measured
SELECT
    coalesce(sum(n), 0)::BIGINT AS distinct_values,
    coalesce(sum(n) FILTER (n > 1), 0)::BIGINT AS colliding
FROM (
    SELECT count(*) AS n
    FROM (SELECT DISTINCT value, rounded FROM measured) AS different
    GROUP BY rounded
) AS images
