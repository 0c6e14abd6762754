-- The newest revision of each key in one partition of predictions; without a fingerprint if it is of another model.
-- Grain: one row per key.
-- Views: stored
-- An anti-join against the few rows with a later revision; a window function over all rows costs fifteen times as much.
SELECT s.* FROM stored AS s
ANTI JOIN (SELECT __key, revision FROM stored WHERE revision > 0) AS newer
    ON newer.__key = s.__key AND newer.revision > s.revision
