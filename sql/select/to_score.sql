-- The selected rows that are not staged yet, each with what is stored of it; the stream compares the fingerprints.
-- Grain: one row per key.
-- Views: selected, latest, other_versions, staged
SELECT
    c.* EXCLUDE (__key),
    p.fingerprint AS __fingerprint,
    p.revision AS __revision,
    EXISTS (SELECT 1 FROM other_versions AS o WHERE o.__key = c.__key) AS __other_version
FROM selected AS c
LEFT JOIN latest AS p ON p.__key = c.__key
ANTI JOIN staged AS s ON s.__key = c.__key
