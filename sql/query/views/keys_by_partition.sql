-- The key of each partition of predictions in its newest complete run, or else in its newest run.
-- Grain: one row per job, ds and model_version.
-- Views: run_records
SELECT
    job,
    ds,
    model.version AS model_version,
    arg_max(plan.key, (state = 'complete', run_id)) AS key
FROM stored.run_records
GROUP BY ALL
