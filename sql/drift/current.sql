-- The newest revision of each prediction of one partition, without those of withdrawn keys that are marked.
-- Grain: one row per key.
-- Views: stored
SELECT s.* FROM stored AS s
ANTI JOIN (SELECT __key, revision FROM stored WHERE revision > 0) AS newer
    ON newer.__key = s.__key AND newer.revision > s.revision
WHERE s.reason <> 'withdrawn'
