-- Why the run scored what it scored.
-- Grain: one row per reason.
-- Views: scored
SELECT
    reason,
    count(*) AS rows
FROM scored
GROUP BY ALL
ORDER BY ALL
