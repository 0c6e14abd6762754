-- Why rows are in quarantine; a row with two reasons counts for both.
-- Grain: one row per reason.
-- Views: rejected
SELECT reason, count(*) AS broken
FROM (SELECT unnest(reasons) AS reason FROM rejected) AS each_reason
GROUP BY reason
ORDER BY broken DESC, reason
