-- How well the scores of each run agree with the labels, for the last class if there are several.
-- Grain: one row per run.
-- Views: performance
SELECT run_id, class, rows, auc, mean_score, base_rate
FROM performance
WHERE class IS NOT NULL
QUALIFY row_number() OVER (PARTITION BY run_id ORDER BY class DESC) = 1
ORDER BY run_id
