-- The predictions of a partition as it would be: what a run has staged, and what stands there otherwise.
-- Grain: one row per key.
-- Views: predicted, stored
SELECT p.* EXCLUDE (__key) FROM predicted AS p
UNION ALL BY NAME
SELECT s.* EXCLUDE (__key) FROM stored AS s
ANTI JOIN (SELECT __key, revision FROM stored WHERE revision > 0) AS newer
    ON newer.__key = s.__key AND newer.revision > s.revision
ANTI JOIN predicted AS p ON p.__key = s.__key
