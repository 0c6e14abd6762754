-- The rows of unselected.sql and the selected rows that break a rule of the input suite, each with all its reasons.
-- Grain: one row per input row.
-- Views: candidates, duplicates, keyed
SELECT
    c.* EXCLUDE (__key, __broken),
    list_prepend(CASE WHEN c.__key IS NULL THEN 'null_key' ELSE 'conflicting_duplicate' END, c.__broken) AS reasons
FROM candidates AS c LEFT JOIN duplicates AS d ON d.__key = c.__key
WHERE c.__key IS NULL OR d.conflicting
UNION ALL
SELECT k.* EXCLUDE (__key, __broken), k.__broken AS reasons FROM keyed AS k
WHERE len(k.__broken) > 0
