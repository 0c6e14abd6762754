-- The keys that occur more than once among the candidates, and whether their rows differ in any column that is read.
-- Grain: one row per duplicated key.
-- Views: candidates
-- The whole row is compared by its alias, a name that no input column can have: names with `__` are reserved.
WITH repeated AS (
    SELECT __key FROM candidates WHERE __key IS NOT NULL GROUP BY __key HAVING count(*) > 1
)

SELECT
    __row.__key AS __key,
    count(*) AS copies,
    count(DISTINCT __row) > 1 AS conflicting
FROM candidates AS __row SEMI JOIN repeated ON repeated.__key = __row.__key
GROUP BY __row.__key
