-- How far apart the scores and decisions of two versions are; flips is NULL if they make no decisions.
-- Grain: one row.
-- Views: compared
SELECT
    count(*) AS rows,
    CASE WHEN count(prediction_a) > 0 THEN count(*) FILTER (prediction_a <> prediction_b) END AS flips,
    avg(score_a) AS mean_a,
    avg(score_b) AS mean_b,
    avg(score_b - score_a) AS mean_shift,
    avg(abs(score_b - score_a)) AS mean_absolute_shift,
    quantile_cont(score_b - score_a, 0.05) AS shift_5,
    quantile_cont(score_b - score_a, 0.5) AS shift_50,
    quantile_cont(score_b - score_a, 0.95) AS shift_95,
    max(abs(score_b - score_a)) AS largest_shift,
    CASE WHEN stddev_pop(score_a) > 0 AND stddev_pop(score_b) > 0 THEN corr(score_a, score_b) END AS correlation
FROM compared
