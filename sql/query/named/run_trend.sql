-- How long runs take and how fast they score, week by week; `run_performance` has each run.
-- Grain: one row per job and week.
-- Views: runs
-- $job VARCHAR: one job, default NULL for all
-- $from DATE: the first day, default NULL for no limit
-- $to DATE: the last day, default NULL for no limit
SELECT
    job,
    date_trunc('week', ds::DATE)::DATE AS week,
    count(*) AS runs,
    count(*) FILTER (state <> 'complete') AS not_complete,
    sum(scored)::BIGINT AS scored,
    median(wall_s) AS median_s,
    quantile_cont(wall_s, 0.95) AS slowest_s,
    median(rows_per_s) AS rows_per_s,
    max(peak_memory_bytes) // 1000000 AS peak_memory_mb
FROM runs
WHERE
    ($job IS NULL OR job = $job)
    AND ($from IS NULL OR ds >= $from::VARCHAR)
    AND ($to IS NULL OR left(ds, length($to::VARCHAR)) <= $to::VARCHAR)
GROUP BY job, week
ORDER BY job, week
