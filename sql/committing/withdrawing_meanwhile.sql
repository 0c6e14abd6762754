-- The withdrawn keys of which another run has published a row since the plan: a mark too, or a prediction (overtaken).
-- Grain: one row per kind.
-- Views: withdrawing, meanwhile
-- A mark has the fingerprint 0.
WITH newest AS (
    SELECT __key, arg_max_null(fingerprint, revision) AS fingerprint FROM meanwhile GROUP BY __key
)

SELECT
    coalesce(n.fingerprint <> 0, TRUE) AS overtaken,
    count(*) AS rows,
    coalesce(sum(hash(w.__key)), 0) AS hash_sum
FROM withdrawing AS w INNER JOIN newest AS n ON n.__key = w.__key
GROUP BY overtaken
