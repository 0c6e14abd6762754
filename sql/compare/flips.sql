-- The number of rows for each pair of decisions by two versions, including pairs of equal decisions.
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
