-- The number of current predictions in each part file: those without a newer revision of their key.
-- Grain: one row per file with any.
-- Views: stored
SELECT
    s.file AS file,
    count(*) AS rows
FROM stored AS s
ANTI JOIN (SELECT __key, revision FROM stored WHERE revision > 0) AS newer
    ON newer.__key = s.__key AND newer.revision > s.revision
GROUP BY s.file
