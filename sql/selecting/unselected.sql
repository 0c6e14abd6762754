-- The candidates without a key, and those that share a key but have different values.
-- Grain: one row per input row.
-- Views: candidates, duplicates
SELECT
    c.* EXCLUDE (__key),
    [CASE WHEN c.__key IS NULL THEN 'null_key' ELSE 'conflicting_duplicate' END] AS reasons
FROM candidates AS c LEFT JOIN duplicates AS d ON d.__key = c.__key
WHERE c.__key IS NULL OR d.conflicting
