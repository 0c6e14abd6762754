-- The selected rows that are not yet staged, each with what is stored for its key, which the stream compares.
-- Grain: one row per key.
-- Views: compared, latest, other_versions, staged
SELECT
    c.* EXCLUDE (__key, __carried),
    p.fingerprint AS __fingerprint,
    p.revision AS __revision,
    coalesce(c.__carried <> p.__carried, FALSE) AS __other_carried,
    EXISTS (SELECT 1 FROM other_versions AS o WHERE o.__key = c.__key) AS __other_version
FROM compared AS c
LEFT JOIN latest AS p ON p.__key = c.__key
ANTI JOIN staged AS s ON s.__key = c.__key
