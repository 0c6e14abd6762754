-- How good the scores of classes were, day by day, as far as labels have arrived. Other tasks: error_trend, rank_trend.
-- Grain: one row per job, ds, model_version and class.
-- Views: performance
-- $job VARCHAR: one job, default NULL for all
-- $from DATE: the first day, default NULL for no limit
-- $to DATE: the last day, default NULL for no limit
-- surplus is the mean score minus the share of positive labels: above zero, the model overestimates.
SELECT
    job,
    model_version,
    class,
    ds,
    rows,
    rows / nullif(predictions, 0) AS labelled,
    auc,
    log_loss,
    brier,
    mean_score,
    base_rate,
    mean_score - base_rate AS surplus,
    calibration_error
FROM performance
WHERE
    class IS NOT NULL
    AND ($job IS NULL OR job = $job)
    AND ($from IS NULL OR ds >= $from::VARCHAR)
    AND ($to IS NULL OR left(ds, length($to::VARCHAR)) <= $to::VARCHAR)
ORDER BY job, model_version, class, ds
