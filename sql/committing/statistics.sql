-- What the run predicted, by the reason for scoring.
-- Grain: one row per prediction and reason.
-- Views: scored
SELECT
    prediction::VARCHAR AS prediction,
    reason,
    count(*) AS rows,
    sum(prediction_proba::DOUBLE) AS sum_confidence
FROM scored
GROUP BY ALL
ORDER BY ALL
