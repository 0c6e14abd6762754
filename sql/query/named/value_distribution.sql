-- How the values that regressions currently predict are distributed, day by day. Other jobs have no rows here.
-- Grain: one row per job and ds.
-- Views: predictions
-- $job VARCHAR: one job, default NULL for all
-- $ds DATE: one day, default NULL for all
SELECT
    job,
    ds,
    model_version,
    count(*) AS rows,
    avg(value) AS mean,
    stddev_samp(value) AS deviation,
    min(value) AS low,
    quantile_cont(value, 0.05) AS q5,
    quantile_cont(value, 0.5) AS q50,
    quantile_cont(value, 0.95) AS q95,
    max(value) AS high
FROM predictions
WHERE value IS NOT NULL AND ($job IS NULL OR job = $job) AND ($ds IS NULL OR ds = $ds::VARCHAR)
GROUP BY job, ds, model_version
ORDER BY job, ds
