-- The delivery that counts of each day and target, the last that was not withdrawn, with the name of its table.
-- Grain: one row per job, ds and target.
-- Views: deliveries
SELECT
    job,
    ds,
    target,
    run_id,
    delivered_at,
    run_id || '.' || target || '.' || left(digest, 12) AS name
FROM stored.deliveries
WHERE delivered_at IS NOT NULL AND state <> 'withdrawn'
QUALIFY row_number() OVER (PARTITION BY job, ds, target ORDER BY delivered_at DESC) = 1
