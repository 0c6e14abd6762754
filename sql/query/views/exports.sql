-- Who is in which export, and who was held out: of each day and target, the last export that was not withdrawn.
-- Grain: one row per job, ds, target and key.
-- Views: current_deliveries, exports
SELECT
    e.job,
    e.ds,
    e.model_version,
    d.run_id,
    d.target,
    e.key_text,
    e.__group AS export_group,
    e.__rank AS export_rank,
    e.__score AS score,
    e.__segment AS segment,
    e.__campaign AS campaign,
    d.delivered_at
FROM stored.exports AS e
INNER JOIN stored.current_deliveries AS d ON d.name = regexp_extract(e.__file, '([^/]+)\.parquet$', 1) AND d.job = e.job
