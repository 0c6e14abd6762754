-- The best scores of a ranking run, by the reason for scoring.
-- Grain: one row per reason.
-- Views: scored
SELECT
    reason,
    count(*) AS rows,
    sum(top_scores[1]::DOUBLE) AS total,
    min(top_scores[1])::DOUBLE AS low,
    max(top_scores[1])::DOUBLE AS high
FROM scored
GROUP BY ALL
ORDER BY ALL
