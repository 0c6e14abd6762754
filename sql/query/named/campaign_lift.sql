-- How often an outcome was seen among those who were sent an export, and in its control group.
-- Grain: one row per job, target, campaign and ds.
-- Views: exports, labels
-- $outcome VARCHAR: the label that is counted, default 1
-- $target VARCHAR: one target, default NULL for all
-- $job VARCHAR: one job, default NULL for all
WITH seen AS (
    SELECT
        e.job,
        e.target,
        e.campaign,
        e.ds,
        e.export_group,
        CASE WHEN l.label = $outcome THEN 1.0 ELSE 0.0 END AS outcome
    FROM exports AS e
    INNER JOIN labels AS l ON l.job = e.job AND l.ds = e.ds AND l.key_text = e.key_text AND l.label IS NOT NULL
    WHERE
        e.campaign IS NOT NULL
        AND ($target IS NULL OR e.target = $target)
        AND ($job IS NULL OR e.job = $job)
),

rates AS (
    SELECT
        job,
        target,
        campaign,
        ds,
        count(*) FILTER (WHERE export_group = 'target') AS sent,
        avg(outcome) FILTER (WHERE export_group = 'target') AS sent_rate,
        count(*) FILTER (WHERE export_group = 'holdout') AS held_out,
        avg(outcome) FILTER (WHERE export_group = 'holdout') AS held_out_rate
    FROM seen
    GROUP BY job, target, campaign, ds
)

SELECT
    job,
    target,
    campaign,
    ds,
    sent,
    sent_rate,
    held_out,
    held_out_rate,
    sent_rate - held_out_rate AS lift,
    1.96 * sqrt(
        sent_rate * (1 - sent_rate) / nullif(sent, 0) + held_out_rate * (1 - held_out_rate) / nullif(held_out, 0)
    ) AS margin_95
FROM rates
ORDER BY job, target, campaign, ds
