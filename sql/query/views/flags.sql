-- The flagged cases: of each day and target, those of the last delivery that was not withdrawn.
-- Grain: one row per job, ds, target and case.
-- Views: current_deliveries, flags
SELECT
    f.job,
    f.ds,
    f.model_version,
    d.run_id,
    d.target,
    f.__case AS case_id,
    f.key_text,
    f.score,
    f.status,
    f.since,
    f.quiet,
    f.alert,
    f.alerted_on
FROM stored.flags AS f
INNER JOIN stored.current_deliveries AS d ON d.name = regexp_extract(f.__file, '([^/]+)\.parquet$', 1) AND d.job = f.job
