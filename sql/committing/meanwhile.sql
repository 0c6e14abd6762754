-- The rows that another run has published since the plan: as this run would leave them (unchanged), or overtaken.
-- Grain: one row per kind.
-- Views: staged, scored, selected, latest, rejected, meanwhile, compared
-- A row that another model of the same version has published has no fingerprint: it is overtaken.
WITH dropped AS (
    SELECT s.__key AS __key, s.fingerprint AS fingerprint
    FROM staged AS s ANTI JOIN scored AS p ON p.__key = s.__key
    UNION ALL
    SELECT p.__key AS __key, p.fingerprint AS fingerprint
    FROM latest AS p
    SEMI JOIN selected AS c ON c.__key = p.__key
    ANTI JOIN staged AS s ON s.__key = p.__key
    ANTI JOIN rejected AS q ON q.__key = p.__key
),

newest AS (
    SELECT
        __key,
        arg_max_null(fingerprint, revision) AS fingerprint,
        arg_max_null(__carried, revision) AS __carried
    FROM meanwhile
    GROUP BY __key
)

SELECT
    coalesce(d.fingerprint <> n.fingerprint, TRUE) OR coalesce(c.__carried <> n.__carried, FALSE) AS overtaken,
    count(*) AS rows,
    coalesce(sum(hash(d.__key)), 0) AS hash_sum
FROM dropped AS d
INNER JOIN newest AS n ON n.__key = d.__key
INNER JOIN compared AS c ON c.__key = d.__key
GROUP BY overtaken
