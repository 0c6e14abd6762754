-- Why rows are in quarantine; a row with two reasons counts for both.
-- Grain: one row per reason.
-- Views: rejected
SELECT reason, count(*) AS rows
FROM (SELECT unnest(reasons) AS reason FROM rejected)
GROUP BY reason
ORDER BY rows DESC, reason
