-- The rows that the run had staged, but another run published first: alike (unchanged) or from other input (overtaken).
-- Grain: one row per kind.
-- Views: staged, scored, meanwhile
WITH dropped AS (
    SELECT s.__key AS __key, s.fingerprint AS fingerprint
    FROM staged AS s ANTI JOIN scored AS p ON p.__key = s.__key
),

newest AS (
    SELECT __key, arg_max(fingerprint, revision) AS fingerprint FROM meanwhile GROUP BY __key
)

SELECT
    d.fingerprint <> n.fingerprint AS overtaken,
    count(*) AS rows,
    coalesce(sum(hash(d.__key)), 0) AS hash_sum
FROM dropped AS d INNER JOIN newest AS n ON n.__key = d.__key
GROUP BY overtaken
