-- The days with unusually many or few rows, compared with the median of up to 28 days before.
-- Grain: one row per job and ds.
-- Views: runs
-- $factor DOUBLE: how many times more or fewer rows are unusual, default 2
-- $job VARCHAR: one job, default NULL for all
-- $from DATE: the first day, default NULL for no limit
-- $to DATE: the last day, default NULL for no limit
-- A job's first three days are left out: there is too little to compare them with.
WITH daily AS (
    SELECT job, ds, arg_max(candidates, finished_at) AS candidates, arg_max(quarantined, finished_at) AS quarantined
    FROM runs
    WHERE state = 'complete' AND ($job IS NULL OR job = $job)
    GROUP BY job, ds
),

judged AS (
    SELECT
        job,
        ds,
        candidates,
        quarantined,
        median(candidates) OVER (PARTITION BY job ORDER BY ds ROWS BETWEEN 28 PRECEDING AND 1 PRECEDING) AS usual,
        row_number() OVER (PARTITION BY job ORDER BY ds) AS number
    FROM daily
)

SELECT job, ds, candidates, quarantined, usual, candidates / usual AS times
FROM judged
WHERE number > 3
    AND (candidates > usual * $factor OR candidates * $factor < usual)
    AND ($from IS NULL OR ds >= $from::VARCHAR)
    AND ($to IS NULL OR left(ds, length($to::VARCHAR)) <= $to::VARCHAR)
ORDER BY job, ds
