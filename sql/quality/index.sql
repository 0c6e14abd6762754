-- The validations for the index of the Data Docs, newest first, each with the checks that did not pass.
-- Grain: one row per run and suite.
-- Views: quality
SELECT
    job,
    ds,
    suite,
    run_id,
    count(*) FILTER (outcome = 'passed') AS passed,
    count(*) AS total,
    list({'outcome': outcome, 'severity': severity, 'name': name} ORDER BY severity, name)
    FILTER (outcome <> 'passed') AS failed
FROM quality
GROUP BY job, ds, suite, run_id
ORDER BY run_id DESC, suite
