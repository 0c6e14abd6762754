-- The keys that stand more than once among the candidates, and whether their rows differ in any column that we read.
-- Grain: one row per duplicated key.
-- Views: candidates
WITH repeated AS (
    SELECT __key FROM candidates WHERE __key IS NOT NULL GROUP BY __key HAVING count(*) > 1
)

SELECT
    c.__key AS __key,
    count(*) AS copies,
    count(DISTINCT c) > 1 AS conflicting
FROM candidates AS c SEMI JOIN repeated ON repeated.__key = c.__key
GROUP BY c.__key
