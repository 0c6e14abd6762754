-- As to_score, for the rows that a crashed run had staged, with its predictions; the stream takes those that fit.
-- Grain: one row per key.
-- Views: selected, latest, other_versions, staged, left_behind
SELECT
    c.* EXCLUDE (__key),
    p.fingerprint AS __fingerprint,
    p.revision AS __revision,
    EXISTS (SELECT 1 FROM other_versions AS o WHERE o.__key = c.__key) AS __other_version,
    a.* EXCLUDE (__key)
FROM selected AS c
INNER JOIN left_behind AS a ON a.__key = c.__key
LEFT JOIN latest AS p ON p.__key = c.__key
ANTI JOIN staged AS s ON s.__key = c.__key
