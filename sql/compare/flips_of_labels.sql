-- The number of rows to which two versions of a multi-label model give a label.
-- Grain: one row per label that either version gives.
-- Views: compared
WITH labels AS (
    SELECT DISTINCT unnest(list_distinct(list_concat(prediction_a, prediction_b))) AS label FROM compared
)

SELECT
    labels.label AS label,
    count(*) FILTER (list_contains(c.prediction_a, labels.label)) AS rows_a,
    count(*) FILTER (list_contains(c.prediction_b, labels.label)) AS rows_b,
    count(*) FILTER (
        NOT list_contains(c.prediction_a, labels.label) AND list_contains(c.prediction_b, labels.label)
    ) AS added,
    count(*) FILTER (
        list_contains(c.prediction_a, labels.label) AND NOT list_contains(c.prediction_b, labels.label)
    ) AS removed
FROM labels CROSS JOIN compared AS c
GROUP BY labels.label
ORDER BY added + removed DESC, label
