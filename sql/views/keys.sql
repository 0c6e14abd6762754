-- The key of each job, as its newest complete run had it.
-- Grain: one row per job.
-- Views: run_records
SELECT
    job,
    arg_max(plan.key, (state = 'complete', run_id)) AS key
FROM stored.run_records
GROUP BY job
