-- How often each item occurs in the current rankings, and how often it is first.
-- Grain: one row per job, ds and item.
-- Views: predictions
-- $job VARCHAR: one job, default NULL for all
-- $ds DATE: one day, default NULL for all
SELECT
    job,
    ds,
    model_version,
    item,
    count(*) AS lists,
    count(*) FILTER (rank = 1) AS first_places,
    avg(score) AS mean_score
FROM (
    SELECT
        job,
        ds,
        model_version,
        generate_subscripts(top_scores, 1) AS rank,
        unnest(top_items::VARCHAR[]) AS item,
        unnest(top_scores) AS score
    FROM predictions
    WHERE top_items IS NOT NULL AND ($job IS NULL OR job = $job) AND ($ds IS NULL OR ds = $ds::VARCHAR)
) AS ranked
GROUP BY job, ds, model_version, item
ORDER BY job, ds, lists DESC, item
