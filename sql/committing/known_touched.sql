-- The keys that had a prediction before the run, and were scored again, by any run, or rejected.
-- Grain: one row.
-- Views: staged, rejected, meanwhile, latest
-- A key in `latest` has no staged row with revision 0 if those of sums_of_new are new.
WITH touched AS (
    SELECT __key FROM staged WHERE revision > 0
    UNION
    SELECT __key FROM rejected
    UNION
    SELECT __key FROM meanwhile
)

SELECT count(*) AS rows, coalesce(sum(hash(t.__key)), 0) AS hash_sum
FROM touched AS t SEMI JOIN latest AS p ON p.__key = t.__key
