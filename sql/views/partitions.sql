-- What the run records say of each partition of predictions: its key, and whether a key may stand there twice.
-- Grain: one row per job, ds and model_version.
-- Views: run_records
-- A complete run counts its reasons in what it has published; of any other run nobody knows.
SELECT
    job,
    ds,
    model.version AS model_version,
    arg_max(plan.key, (state = 'complete', run_id)) AS key,
    bool_or(state <> 'complete' OR coalesce((statistics.reasons ->> '$.changed')::BIGINT, 0) > 0) AS revised
FROM stored.run_records
GROUP BY ALL
