-- What was sent to which target of which run.
-- Grain: one row per job, ds, run_id and target.
-- Views: deliveries
SELECT
    d.job,
    d.ds,
    d.run_id,
    d.target,
    d.kind,
    d.state,
    d.rows,
    d.at AS state_at,
    d.delivered_at,
    d.model.name AS model_name,
    d.model.version AS model_version,
    d.model.digest AS model_digest,
    d.digest,
    d.place,
    d.attempts,
    d.reason,
    d.details
FROM stored.deliveries AS d
