-- How many relevant items the lists of rankings had, and how far up, day by day, as far as labels have arrived.
-- Grain: one row per job, ds, model_version and k.
-- Views: performance
-- $job VARCHAR: one job, default NULL for all
-- $from DATE: the first day, default NULL for no limit
-- $to DATE: the last day, default NULL for no limit
SELECT
    job,
    model_version,
    ds,
    rows,
    rows / nullif(predictions, 0) AS labelled,
    ranked.at_rank.k AS k,
    ranked.at_rank.precision AS precision,
    ranked.at_rank.recall AS recall,
    ranked.at_rank.hit_rate AS hit_rate,
    ranked.at_rank.ndcg AS ndcg
FROM (SELECT *, unnest(at_k) AS at_rank FROM performance) AS ranked
WHERE
    ($job IS NULL OR job = $job)
    AND ($from IS NULL OR ds >= $from::VARCHAR)
    AND ($to IS NULL OR left(ds, length($to::VARCHAR)) <= $to::VARCHAR)
ORDER BY job, model_version, ds, k
