-- How far the values of regressions were from the labels, day by day, as far as labels have arrived.
-- Grain: one row per job, ds and model_version.
-- Views: performance
-- $job VARCHAR: one job, default NULL for all
-- $from DATE: the first day, default NULL for no limit
-- $to DATE: the last day, default NULL for no limit
-- bias is the mean of value minus label; inside is the share of labels between the lowest and the highest predicted
-- quantile, and expected the share that should be.
SELECT
    job,
    model_version,
    ds,
    rows,
    rows / nullif(predictions, 0) AS labelled,
    mean_label,
    bias,
    mae,
    rmse,
    r2,
    CASE WHEN len(quantiles) > 1 THEN quantiles[-1].covered - quantiles[1].covered END AS inside,
    CASE WHEN len(quantiles) > 1 THEN quantiles[-1].level - quantiles[1].level END AS expected
FROM performance
WHERE
    class IS NULL
    AND at_k IS NULL
    AND ($job IS NULL OR job = $job)
    AND ($from IS NULL OR ds >= $from::VARCHAR)
    AND ($to IS NULL OR left(ds, length($to::VARCHAR)) <= $to::VARCHAR)
ORDER BY job, model_version, ds
