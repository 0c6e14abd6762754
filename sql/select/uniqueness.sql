-- Counts of the candidates, and whether their keys are unique.
-- Grain: one row.
-- Views: candidates
-- Equal numbers of keys and of distinct hashes prove that no key stands twice; else duplicates.sql looks closer.
SELECT
    count(*) AS rows,
    count(__key) AS keys,
    count(DISTINCT hash(__key)) - (count(*) > count(__key))::BIGINT AS distinct_hashes,
    coalesce(sum(hash(__key)), 0) AS hash_sum
FROM candidates
