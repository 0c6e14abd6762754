-- The selected rows of a partition without predictions or staged rows: those of to_score.sql, which would join nothing.
-- Grain: one row per key.
-- Views: compared
-- Each join of to_score.sql holds all columns twice: with 5,000, three of them do not fit into a run's memory.
SELECT
    c.* EXCLUDE (__key, __carried),
    NULL::BIGINT AS __fingerprint,
    NULL::INTEGER AS __revision,
    FALSE AS __other_carried,
    FALSE AS __other_version
FROM compared AS c
