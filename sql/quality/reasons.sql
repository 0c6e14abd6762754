-- The number of rows in quarantine by reason, and a few of their keys; a row with two reasons counts for both.
-- Grain: one row per reason.
-- Views: rejected
SELECT reason, count(*) AS broken, min(key_text, 3) AS keys
FROM (SELECT unnest(reasons) AS reason, key_text FROM rejected) AS each_reason
GROUP BY reason
ORDER BY broken DESC, reason
