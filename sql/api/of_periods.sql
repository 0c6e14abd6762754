-- The rows of a range of periods.
-- Grain: one row per row of `shown`.
-- Views: shown
-- $job VARCHAR: one job, NULL for all
-- $ds VARCHAR: one period, NULL for no limit
-- $first VARCHAR: the first period, NULL for no limit
-- $last VARCHAR: the last period, or the day of the last hours, NULL for no limit
SELECT *
FROM shown
WHERE
    ($job IS NULL OR job = $job)
    AND ($ds IS NULL OR ds = $ds)
    AND ($first IS NULL OR ds >= $first)
    AND ($last IS NULL OR left(ds, length($last)) <= $last)
