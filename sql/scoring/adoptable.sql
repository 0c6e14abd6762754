-- Like to_score.sql, for rows that a crashed run had staged, with its predictions; the stream reuses those that match.
-- Grain: one row per key.
-- Views: compared, latest, other_versions, staged, left_behind
SELECT
    c.* EXCLUDE (__key, __carried),
    p.fingerprint AS __fingerprint,
    p.revision AS __revision,
    coalesce(c.__carried <> p.__carried, FALSE) AS __other_carried,
    EXISTS (SELECT 1 FROM other_versions AS o WHERE o.__key = c.__key) AS __other_version,
    a.* EXCLUDE (__key)
FROM compared AS c
INNER JOIN left_behind AS a ON a.__key = c.__key
LEFT JOIN latest AS p ON p.__key = c.__key
ANTI JOIN staged AS s ON s.__key = c.__key
