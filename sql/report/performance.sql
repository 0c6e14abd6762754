-- How well the predictions of each run agree with the labels, for the last class if there are several.
-- Grain: one row per run.
-- Views: performance
SELECT
    run_id,
    class,
    rows,
    auc,
    mean_score,
    base_rate,
    bias,
    mae,
    at_k[-1].k AS k,
    at_k[-1].precision AS precision,
    at_k[-1].ndcg AS ndcg
FROM performance
QUALIFY row_number() OVER (PARTITION BY run_id ORDER BY class DESC) = 1
ORDER BY run_id
