-- Like to_score.sql, for rows whose carried values are not the stored ones, with the stored outputs, which are reused.
-- Grain: one row per key.
-- Views: compared, latest, staged, stored_rows
SELECT
    c.* EXCLUDE (__key, __carried),
    p.fingerprint AS __fingerprint,
    p.revision AS __revision,
    TRUE AS __other_carried,
    FALSE AS __other_version,
    o.* EXCLUDE (__key)
FROM compared AS c
INNER JOIN latest AS p ON p.__key = c.__key AND p.__carried <> c.__carried
INNER JOIN stored_rows AS o ON o.__key = c.__key AND o.__reused_revision = p.revision
ANTI JOIN staged AS s ON s.__key = c.__key
