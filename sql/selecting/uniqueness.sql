-- Counts of the candidates, and whether their keys are unique.
-- Grain: one row.
-- Views: candidates
-- Equal numbers of keys and distinct hashes prove that no key occurs twice; otherwise duplicates.sql compares the keys.
SELECT
    count(*) AS rows,
    count(__key) AS keys,
    count(DISTINCT hash(__key)) - (count(*) > count(__key))::BIGINT AS distinct_hashes,
    coalesce(sum(hash(__key)), 0) AS hash_sum
FROM candidates
