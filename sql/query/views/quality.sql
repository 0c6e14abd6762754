-- Every validation result: of the built-in checks, the suites and the guards.
-- Grain: one row per run, suite and check.
-- Views: quality
SELECT
    run_id,
    job,
    ds,
    model_version,
    suite,
    name,
    expectation,
    "column",
    severity,
    success,
    outcome,
    observed,
    unexpected,
    share,
    engine,
    validated_at,
    expected
FROM stored.quality
