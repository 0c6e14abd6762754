-- What each day holds: its current predictions, and what the last complete run did.
-- Grain: one row per job and ds.
-- Views: predictions, runs
-- $job VARCHAR: one job, default NULL for all
-- $from DATE: the first day, default NULL for no limit
-- $to DATE: the last day, default NULL for no limit
WITH stored AS (
    SELECT
        job,
        ds,
        any_value(model_version) AS model_version,
        count(*) AS rows,
        count(*) FILTER (revision > 0) AS revised,
        avg(prediction_proba) AS mean_confidence
    FROM predictions
    WHERE
        ($job IS NULL OR job = $job)
        AND ($from IS NULL OR ds >= $from::VARCHAR)
        AND ($to IS NULL OR left(ds, length($to::VARCHAR)) <= $to::VARCHAR)
    GROUP BY job, ds
),

done AS (
    SELECT
        job,
        ds,
        arg_max(candidates, finished_at) FILTER (state = 'complete') AS candidates,
        arg_max(quarantined, finished_at) FILTER (state = 'complete') AS quarantined,
        count(*) AS runs,
        arg_max(state, run_id) AS last_run
    FROM runs
    WHERE
        ($job IS NULL OR job = $job)
        AND ($from IS NULL OR ds >= $from::VARCHAR)
        AND ($to IS NULL OR left(ds, length($to::VARCHAR)) <= $to::VARCHAR)
    GROUP BY job, ds
)

SELECT
    job,
    ds,
    stored.model_version AS model_version,
    done.candidates AS candidates,
    coalesce(stored.rows, 0) AS rows,
    coalesce(stored.revised, 0) AS revised,
    done.quarantined AS quarantined,
    stored.mean_confidence AS mean_confidence,
    coalesce(done.runs, 0) AS runs,
    done.last_run AS last_run
FROM done FULL JOIN stored USING (job, ds)
ORDER BY job, ds
