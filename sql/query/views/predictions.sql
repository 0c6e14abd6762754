-- The current predictions: those of the model version that completed last on that day.
-- Grain: one row per job, ds and key.
-- Views: predictions_by_version, runs
-- DuckDB would run a semi-join first, and then swap the sides of the anti-join below it: five times as slow.
SELECT p.* FROM predictions_by_version AS p
INNER JOIN (
    SELECT job, ds, arg_max(model_version, coalesce(finished_at, started_at)) AS model_version
    FROM runs
    WHERE state = 'complete'
    GROUP BY job, ds
) AS newest
    ON newest.job = p.job AND newest.ds = p.ds AND newest.model_version = p.model_version
