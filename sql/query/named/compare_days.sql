-- How the current predictions of the same keys moved between two days, class by class.
-- Grain: one row per job and class.
-- Views: predictions
-- $from DATE: the earlier day
-- $to DATE: the later day
-- $job VARCHAR: one job, default NULL for all
-- mean_shift is the mean change of the confidence over the keys that stayed in the class.
WITH pairs AS (
    SELECT
        coalesce(a.job, b.job) AS job,
        a.prediction AS before,
        b.prediction AS after,
        a.prediction_proba AS proba_before,
        b.prediction_proba AS proba_after
    FROM
        (
            SELECT job, key_text, prediction, prediction_proba FROM predictions
            WHERE ds = $from::VARCHAR AND ($job IS NULL OR job = $job)
        ) AS a
    FULL JOIN (
        SELECT job, key_text, prediction, prediction_proba FROM predictions
        WHERE ds = $to::VARCHAR AND ($job IS NULL OR job = $job)
    ) AS b
        ON b.job = a.job AND b.key_text = a.key_text
),

moves AS (
    SELECT *, unnest(list_distinct([before, after])) AS class FROM pairs
)

SELECT
    job,
    class,
    count(*) FILTER (before = class) AS rows_from,
    count(*) FILTER (after = class) AS rows_to,
    count(*) FILTER (before = class AND after = class) AS stayed,
    count(*) FILTER (before <> class AND after = class) AS moved_in,
    count(*) FILTER (before = class AND after <> class) AS moved_out,
    count(*) FILTER (before IS NULL AND after = class) AS appeared,
    count(*) FILTER (before = class AND after IS NULL) AS gone,
    avg(proba_before) FILTER (before = class) AS mean_from,
    avg(proba_after) FILTER (after = class) AS mean_to,
    avg(proba_after - proba_before) FILTER (before = class AND after = class) AS mean_shift
FROM moves
GROUP BY job, class
ORDER BY job, class
