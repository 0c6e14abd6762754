-- The selected rows that had a prediction before the run, and were neither scored again, by any run, nor rejected.
-- Grain: one row.
-- Views: selected, latest, staged, rejected, meanwhile
SELECT count(*) AS rows, coalesce(sum(hash(c.__key)), 0) AS hash_sum
FROM selected AS c
SEMI JOIN latest AS p ON p.__key = c.__key
ANTI JOIN staged AS s ON s.__key = c.__key
ANTI JOIN rejected AS q ON q.__key = c.__key
ANTI JOIN meanwhile AS m ON m.__key = c.__key
