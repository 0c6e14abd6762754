-- The validations of some files of the history, newest first, each with the checks that did not pass.
-- Grain: one row per run and suite.
-- Views: quality
-- The output's file also has the check of the model. `path` is the path of each row's file.
SELECT
    job,
    ds,
    regexp_extract(path, '-(\w+)[.]parquet$', 1) AS suite,
    run_id,
    max(validated_at) AS validated_at,
    count(*) FILTER (outcome = 'passed') AS passed,
    count(*) AS total,
    list({'outcome': outcome, 'severity': severity, 'name': name} ORDER BY severity, name)
    FILTER (outcome <> 'passed') AS failed
FROM quality
GROUP BY job, ds, path, run_id
ORDER BY run_id DESC, suite
