-- The key of each job in its newest complete run.
-- Grain: one row per job.
-- Views: run_records
SELECT
    job,
    arg_max(plan.key, (state = 'complete', run_id)) AS key
FROM stored.run_records
GROUP BY job
