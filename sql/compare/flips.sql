-- The decisions of two versions, by direction: as many rows as there are where both are alike.
-- Grain: one row per pair of decisions.
-- Views: compared
SELECT
    prediction_a AS before,
    prediction_b AS after,
    prediction_a <> prediction_b AS flipped,
    count(*) AS rows,
    count(*) / sum(count(*)) OVER () AS share,
    avg(score_a) AS mean_a,
    avg(score_b) AS mean_b
FROM compared
GROUP BY prediction_a, prediction_b
ORDER BY flipped DESC, count(*) DESC, before, after
