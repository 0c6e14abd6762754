-- What the newest revision of each key says, in one partition of predictions.
-- Grain: one row per key.
-- Views: stored
-- An anti-join against the few rows with a later revision; a window function over all rows costs fifteen times as much.
SELECT s.__key AS __key, s.fingerprint AS fingerprint, s.revision AS revision
FROM stored AS s
ANTI JOIN (SELECT __key, revision FROM stored WHERE revision > 0) AS newer
    ON newer.__key = s.__key AND newer.revision > s.revision
