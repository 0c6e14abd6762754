-- How many of the k rows with the highest scores two versions have in common; rows of equal score keep their order.
-- Grain: one row per k.
-- Views: compared
-- $ks BIGINT[]: the numbers of rows
WITH ranked AS (
    SELECT
        row_number() OVER (ORDER BY score_a DESC, row) AS rank_a,
        row_number() OVER (ORDER BY score_b DESC, row) AS rank_b
    FROM compared
),

each AS (SELECT unnest($ks) AS k)

SELECT
    each.k AS k,
    count(*) FILTER (r.rank_a <= each.k AND r.rank_b <= each.k) AS in_both,
    count(*) FILTER (r.rank_a <= each.k AND r.rank_b <= each.k) / each.k AS overlap
FROM each INNER JOIN ranked AS r ON r.rank_a <= each.k
GROUP BY each.k
ORDER BY each.k
