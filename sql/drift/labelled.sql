-- The current predictions that have a label; if a key has several, that of the newest import.
-- Grain: one row per key.
-- Views: current, labels
SELECT
    p.* EXCLUDE (__key),
    l.label AS label
FROM current AS p
INNER JOIN (
    SELECT __key, arg_max(label, filename) AS label FROM labels WHERE label IS NOT NULL GROUP BY __key
) AS l ON l.__key = p.__key
