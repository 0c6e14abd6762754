-- The result of each check in the last validation of each day; checks that ever failed come first.
-- Grain: one row per job, ds, suite and check.
-- Views: quality
-- $job VARCHAR: one job, default NULL for all
-- $check_name VARCHAR: one check, default NULL for all
-- $from DATE: the first day, default NULL for no limit
-- $to DATE: the last day, default NULL for no limit
WITH newest AS (
    SELECT *, bool_or(NOT success) OVER (PARTITION BY job, suite, name) AS ever_failed
    FROM quality
    WHERE ($job IS NULL OR job = $job)
        AND ($check_name IS NULL OR name = $check_name)
        AND ($from IS NULL OR ds >= $from::VARCHAR)
        AND ($to IS NULL OR left(ds, length($to::VARCHAR)) <= $to::VARCHAR)
    QUALIFY row_number() OVER (PARTITION BY job, ds, suite, name ORDER BY run_id DESC) = 1
)

SELECT
    job,
    suite,
    name,
    ds,
    severity,
    outcome,
    unexpected,
    share,
    observed
FROM newest
ORDER BY ever_failed DESC, job, suite, name, ds
