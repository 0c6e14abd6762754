-- The keys whose score moved most between two days.
-- Grain: one row per job and key.
-- Views: predictions
-- $from DATE: the earlier day
-- $to DATE: the later day
-- $class BIGINT: the class whose probability is the score, from 0 as in prob_class_0, default 1
-- $rows BIGINT: how many keys, default 20
-- $job VARCHAR: one job, default NULL for all
WITH scored AS (
    SELECT job, ds, key_text, prediction, list_value(*COLUMNS('^prob_class_[0-9]+$')) AS scores
    FROM predictions
    WHERE ds IN ($from::VARCHAR, $to::VARCHAR) AND ($job IS NULL OR job = $job)
)

SELECT
    a.job AS job,
    a.key_text AS key_text,
    a.prediction AS before,
    b.prediction AS after,
    a.scores[$class + 1] AS score_from,
    b.scores[$class + 1] AS score_to,
    b.scores[$class + 1] - a.scores[$class + 1] AS moved
FROM scored AS a INNER JOIN scored AS b ON b.job = a.job AND b.key_text = a.key_text
WHERE a.ds = $from::VARCHAR AND b.ds = $to::VARCHAR
ORDER BY abs(moved) DESC, job, key_text
LIMIT $rows
