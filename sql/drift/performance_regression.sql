-- How far predicted values are from the labels, and how many labels are at or below each predicted quantile.
-- Grain: one row.
-- Views: judged
-- $levels DOUBLE[]: the levels of the quantiles, ascending; empty if the model predicts none
-- r2 is the coefficient of determination, and pinball the mean pinball loss (Koenker and Bassett 1978) of a level.
WITH totals AS (
    SELECT
        count(*) AS rows,
        avg(value - label) AS bias,
        avg(abs(value - label)) AS mae,
        avg((value - label) ** 2) AS mse,
        avg(value) AS mean_score,
        avg(label) AS mean_label,
        CASE WHEN min(label) < max(label) THEN var_pop(label) END AS variance
    FROM judged
),

levels AS (SELECT unnest($levels::DOUBLE[]) AS level, unnest(range(1, len($levels::DOUBLE[]) + 1)) AS place),

of_levels AS (
    SELECT
        l.level AS level,
        avg((j.label <= j.quantiles[l.place])::INTEGER) AS covered,
        avg(
            greatest(
                l.level * (j.label - j.quantiles[l.place]), (l.level - 1) * (j.label - j.quantiles[l.place])
            )
        ) AS pinball
    FROM judged AS j CROSS JOIN levels AS l
    GROUP BY l.level
)

SELECT
    rows,
    bias,
    mae,
    sqrt(mse) AS rmse,
    1 - mse / variance AS r2,
    mean_score,
    mean_label,
    (SELECT list({'level': level, 'covered': covered, 'pinball': pinball} ORDER BY level) FROM of_levels) AS quantiles,
    CASE
        WHEN rows = 0 THEN 'no prediction has a label'
        WHEN variance IS NULL THEN 'no R2: all labels are equal'
    END AS note
FROM totals
