-- What a column looked like, day by day.
-- Grain: one row per job, ds, model_version and column_name.
-- Views: profiles
-- $job VARCHAR: one job, default NULL for all
-- $column_name VARCHAR: one column, default NULL for all
-- $from DATE: the first day, default NULL for no limit
-- $to DATE: the last day, default NULL for no limit
SELECT
    job,
    model_version,
    column_name,
    ds,
    rows,
    (nulls + nans) / nullif(rows, 0) AS missing,
    mean,
    deviation,
    low,
    quantiles[2] AS q05,
    quantiles[4] AS median,
    quantiles[6] AS q95,
    high
FROM profiles
WHERE slice_column = ''
    AND kind <> 'class'
    AND ($job IS NULL OR job = $job)
    AND ($column_name IS NULL OR column_name = $column_name)
    AND ($from IS NULL OR ds >= $from::VARCHAR)
    AND ($to IS NULL OR left(ds, length($to::VARCHAR)) <= $to::VARCHAR)
ORDER BY job, model_version, column_name, ds
