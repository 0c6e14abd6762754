-- How many of the keys with the highest scores were also among the highest on the previous day with predictions.
-- Grain: one row per job and ds.
-- Views: predictions
-- $class BIGINT: the class whose probability is the score, from 0 as in prob_class_0, default 1
-- $rows BIGINT: how many keys count as the top, default 100
-- $job VARCHAR: one job, default NULL for all
-- $from DATE: the first day, default NULL for no limit
-- $to DATE: the last day, default NULL for no limit
WITH scored AS (
    SELECT job, ds, key_text, list_value(*COLUMNS('^prob_class_[0-9]+$')) AS scores
    FROM predictions
    WHERE
        ($job IS NULL OR job = $job)
        AND ($from IS NULL OR ds >= $from::VARCHAR)
        AND ($to IS NULL OR left(ds, length($to::VARCHAR)) <= $to::VARCHAR)
),

best AS (
    SELECT job, ds, key_text, scores[$class + 1] AS score
    FROM scored
    QUALIFY row_number() OVER (PARTITION BY job, ds ORDER BY scores[$class + 1] DESC, key_text) <= $rows
),

days AS (
    SELECT job, ds, lag(ds) OVER (PARTITION BY job ORDER BY ds) AS before
    FROM (SELECT DISTINCT job, ds FROM best) AS known
)

SELECT
    d.job AS job,
    d.ds AS ds,
    count(*) AS top,
    CASE WHEN d.before IS NOT NULL THEN count(p.key_text) END AS stayed,
    CASE WHEN d.before IS NOT NULL THEN count(p.key_text) / count(*) END AS share,
    min(b.score) AS lowest_score
FROM days AS d
INNER JOIN best AS b ON b.job = d.job AND b.ds = d.ds
LEFT JOIN best AS p ON p.job = d.job AND p.ds = d.before AND p.key_text = b.key_text
GROUP BY d.job, d.ds, d.before
ORDER BY d.job, d.ds
