-- The time, speed and memory of each run, newest first.
-- Grain: one row per run.
-- Views: runs
-- $job VARCHAR: one job, default NULL for all
-- $from DATE: the first day, default NULL for no limit
-- $to DATE: the last day, default NULL for no limit
SELECT
    run_id,
    job,
    ds,
    state,
    model_version,
    scored,
    wall_s,
    cpu_s,
    rows_per_s,
    peak_memory_bytes // 1000000 AS peak_memory_mb
FROM runs
WHERE
    ($job IS NULL OR job = $job)
    AND ($from IS NULL OR ds >= $from::VARCHAR)
    AND ($to IS NULL OR left(ds, length($to::VARCHAR)) <= $to::VARCHAR)
ORDER BY run_id DESC
