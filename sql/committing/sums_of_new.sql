-- The keys that the run has scored or rejected and that had no prediction before, with the sums of sums_of_latest.
-- Grain: one row.
-- Views: staged, rejected, selected, latest
WITH new AS (
    SELECT __key FROM staged WHERE revision = 0
    UNION ALL
    SELECT DISTINCT q.__key AS __key
    FROM rejected AS q
    SEMI JOIN selected AS c ON c.__key = q.__key
    ANTI JOIN latest AS p ON p.__key = q.__key
)

SELECT
    count(*) AS rows,
    coalesce(sum(hash(__key)), 0) AS hash_sum,
    coalesce(sum(hash(concat(__key, '#'))), 0) AS second_sum
FROM new
