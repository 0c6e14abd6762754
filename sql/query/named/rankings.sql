-- The current rankings, item by item.
-- Grain: one row per job, ds, key and rank.
-- Views: predictions
-- $key VARCHAR: one key as in key_text, default NULL for all
-- $job VARCHAR: one job, default NULL for all
-- $ds DATE: one day, default NULL for all
SELECT
    job,
    ds,
    model_version,
    key_text,
    generate_subscripts(top_scores, 1) AS rank,
    unnest(top_items::VARCHAR[]) AS item,
    unnest(top_scores) AS score
FROM predictions
WHERE
    top_items IS NOT NULL
    AND ($key IS NULL OR key_text = $key)
    AND ($job IS NULL OR job = $job)
    AND ($ds IS NULL OR ds = $ds::VARCHAR)
ORDER BY job, ds, key_text, rank
