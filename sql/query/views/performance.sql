-- How good the predictions of each day and model version were, as measured for its newest complete run.
-- Grain: one row per job, ds, model_version and class.
-- Views: performance, runs
SELECT p.* FROM stored.performance AS p
INNER JOIN (
    SELECT s.job AS job, s.ds AS ds, s.model_version AS model_version, max(s.run_id) AS run_id
    FROM stored.performance AS s
    SEMI JOIN runs AS r ON r.job = s.job AND r.ds = s.ds AND r.run_id = s.run_id AND r.state = 'complete'
    GROUP BY ALL
) AS newest
    ON newest.job = p.job
    AND newest.ds = p.ds
    AND newest.model_version = p.model_version
    AND newest.run_id = p.run_id
