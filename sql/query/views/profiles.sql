-- The profile of each day and model version: that of its newest complete run.
-- Grain: one row per job, ds, model_version, slice_column, slice and column_name.
-- Views: profiles, runs
SELECT p.* FROM stored.profiles AS p
INNER JOIN (
    SELECT s.job AS job, s.ds AS ds, s.model_version AS model_version, max(s.run_id) AS run_id
    FROM stored.profiles AS s
    SEMI JOIN runs AS r ON r.job = s.job AND r.ds = s.ds AND r.run_id = s.run_id AND r.state = 'complete'
    GROUP BY ALL
) AS newest
    ON newest.job = p.job
    AND newest.ds = p.ds
    AND newest.model_version = p.model_version
    AND newest.run_id = p.run_id
