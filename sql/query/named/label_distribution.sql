-- How often each label occurs in the current predictions of multi-label jobs, day by day.
-- Grain: one row per job, ds and label.
-- Views: predictions
-- $job VARCHAR: one job, default NULL for all
-- $ds DATE: one day, default NULL for all
-- `prediction` is text where jobs of several tasks share a lake; a class that is not a list has no labels.
WITH lists AS (
    SELECT
        job,
        ds,
        model_version,
        try_cast(prediction::VARCHAR AS VARCHAR[]) AS labels
    FROM predictions
    WHERE ($job IS NULL OR job = $job) AND ($ds IS NULL OR ds = $ds::VARCHAR)
),

sizes AS (
    SELECT job, ds, count(labels) AS of_rows FROM lists
    GROUP BY job, ds
)

SELECT
    found.job AS job,
    found.ds AS ds,
    found.model_version AS model_version,
    found.label AS label,
    count(*) AS rows,
    count(*) / any_value(sizes.of_rows) AS share
FROM (SELECT job, ds, model_version, unnest(labels) AS label FROM lists) AS found
INNER JOIN sizes ON sizes.job = found.job AND sizes.ds = found.ds
GROUP BY ALL
ORDER BY job, ds, label
