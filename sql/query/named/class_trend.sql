-- How the share of each class in the current predictions changes from day to day.
-- Grain: one row per job, class and ds.
-- Views: predictions
-- $class VARCHAR: one class, default NULL for all
-- $job VARCHAR: one job, default NULL for all
-- $from DATE: the first day, default NULL for no limit
-- $to DATE: the last day, default NULL for no limit
-- usual is the mean share over the seven days before that have the class.
WITH daily AS (
    SELECT
        job,
        ds,
        prediction,
        count(*) AS rows,
        count(*) / sum(count(*)) OVER (PARTITION BY job, ds) AS share
    FROM predictions
    WHERE
        ($job IS NULL OR job = $job)
        AND ($from IS NULL OR ds >= $from::VARCHAR)
        AND ($to IS NULL OR left(ds, length($to::VARCHAR)) <= $to::VARCHAR)
    GROUP BY job, ds, prediction
)

SELECT
    job,
    prediction,
    ds,
    rows,
    share,
    share - lag(share) OVER (PARTITION BY job, prediction ORDER BY ds) AS change,
    avg(share) OVER (PARTITION BY job, prediction ORDER BY ds ROWS BETWEEN 7 PRECEDING AND 1 PRECEDING) AS usual
FROM daily
WHERE $class IS NULL OR prediction::VARCHAR = $class
ORDER BY job, prediction, ds
