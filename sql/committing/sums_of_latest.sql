-- The keys that had a prediction before the run, with two independent sums of hashes.
-- Grain: one row.
-- Views: latest
-- The second sum is of hashes of other values, so that two keys with the same hash do not agree there, too.
SELECT
    count(*) AS rows,
    coalesce(sum(hash(__key)), 0) AS hash_sum,
    coalesce(sum(hash(concat(__key, '#'))), 0) AS second_sum
FROM latest
