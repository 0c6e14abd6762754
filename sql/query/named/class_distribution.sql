-- How the current predictions of each day are distributed over classes; for multi-label jobs, over lists of labels.
-- Grain: one row per job, ds and predicted class.
-- Views: predictions
-- $job VARCHAR: one job, default NULL for all
-- $ds DATE: one day, default NULL for all
SELECT
    job,
    ds,
    model_version,
    prediction,
    count(*) AS rows,
    count(*) / sum(count(*)) OVER (PARTITION BY job, ds) AS share,
    avg(prediction_proba) AS mean_confidence,
    min(prediction_proba) AS min_confidence
FROM predictions
WHERE prediction IS NOT NULL AND ($job IS NULL OR job = $job) AND ($ds IS NULL OR ds = $ds::VARCHAR)
GROUP BY job, ds, model_version, prediction
ORDER BY job, ds, prediction
