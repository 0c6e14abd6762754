-- How well the scores and decisions of one class agree with the labels: discrimination, calibration, errors.
-- Grain: one row.
-- Views: judged
-- $class VARCHAR: the label that counts as positive
-- The AUC is exact, from the ranks (Mann and Whitney 1947): rows of equal score are grouped, and ties count half.
WITH by_score AS (
    SELECT
        score,
        count(*) FILTER (positive) AS hits,
        count(*) FILTER (NOT positive) AS others
    FROM judged
    GROUP BY score
),

ranked AS (
    SELECT
        hits,
        hits * (sum(others) OVER (ORDER BY score) - others / 2) AS pairs
    FROM by_score
),

bins AS (
    SELECT
        least(floor(score * 10), 9)::INTEGER AS bin,
        count(*) AS rows,
        avg(score) AS mean_score,
        avg(positive::INTEGER) AS share
    FROM judged
    GROUP BY bin
),

calibrated AS (
    SELECT
        sum(rows * abs(mean_score - share)) / sum(rows) AS calibration_error,
        list({
            'low': bin / 10, 'high': (bin + 1) / 10, 'rows': rows, 'mean_score': mean_score, 'share': share
        } ORDER BY bin) AS calibration
    FROM bins
),

totals AS (
    SELECT
        count(*) AS rows,
        count(*) FILTER (positive) AS positives,
        -avg(ln(greatest(of_label, 1e-15))) AS log_loss,
        avg((score - positive::INTEGER) ** 2) AS brier,
        avg(score) AS mean_score,
        avg(positive::INTEGER) AS base_rate,
        avg(correct::INTEGER) AS accuracy,
        count(*) FILTER (predicted) AS predicted,
        count(*) FILTER (predicted AND positive) AS hits
    FROM judged
)

SELECT
    $class::VARCHAR AS class,
    totals.rows AS rows,
    totals.positives AS positives,
    (SELECT sum(pairs) FROM ranked) / nullif(totals.positives * (totals.rows - totals.positives), 0) AS auc,
    totals.log_loss AS log_loss,
    totals.brier AS brier,
    totals.mean_score AS mean_score,
    totals.base_rate AS base_rate,
    calibrated.calibration_error AS calibration_error,
    calibrated.calibration AS calibration,
    totals.accuracy AS accuracy,
    totals.hits / nullif(totals.predicted, 0) AS precision,
    totals.hits / nullif(totals.positives, 0) AS recall,
    2 * totals.hits / nullif(totals.predicted + totals.positives, 0) AS f1,
    nullif(
        concat_ws(
            '; ',
            CASE WHEN totals.rows = 0 THEN 'no prediction has a label' END,
            CASE WHEN totals.rows > 0 AND totals.positives = 0 THEN 'no AUC and no recall: no label is ' || $class END,
            CASE WHEN totals.rows > 0 AND totals.positives = totals.rows THEN 'no AUC: every label is ' || $class END,
            CASE WHEN totals.rows > 0 AND totals.predicted = 0 THEN 'no precision: no prediction is ' || $class END
        ),
        ''
    ) AS note
FROM totals CROSS JOIN calibrated
