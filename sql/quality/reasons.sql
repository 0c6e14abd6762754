-- The number of rows in quarantine by reason; a row with two reasons counts for both.
-- Grain: one row per reason.
-- Views: rejected
SELECT reason, count(*) AS broken
FROM (SELECT unnest(reasons) AS reason FROM rejected) AS each_reason
GROUP BY reason
ORDER BY broken DESC, reason
