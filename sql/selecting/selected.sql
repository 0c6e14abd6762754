-- The candidates that have a key and no conflicting duplicate; one of several exact copies.
-- Grain: one row per key.
-- Views: candidates, duplicates
SELECT c.* FROM candidates AS c ANTI JOIN duplicates AS d ON d.__key = c.__key
WHERE c.__key IS NOT NULL
UNION ALL
SELECT DISTINCT c.* FROM candidates AS c
SEMI JOIN (SELECT __key FROM duplicates WHERE NOT conflicting) AS d ON d.__key = c.__key
