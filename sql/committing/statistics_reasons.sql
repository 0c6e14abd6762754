-- The number of rows that the run scored, by the reason for scoring.
-- Grain: one row per reason.
-- Views: scored
SELECT
    reason,
    count(*) AS rows
FROM scored
GROUP BY ALL
ORDER BY ALL
