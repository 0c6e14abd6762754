-- The values that a regression run predicted, by the reason for scoring.
-- Grain: one row per reason.
-- Views: scored
SELECT
    reason,
    count(*) AS rows,
    sum(value::DOUBLE) AS total,
    min(value)::DOUBLE AS low,
    max(value)::DOUBLE AS high
FROM scored
GROUP BY ALL
ORDER BY ALL
