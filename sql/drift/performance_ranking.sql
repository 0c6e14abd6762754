-- How many of the relevant items are among the first k of each list, and how far up: precision, recall, NDCG.
-- Grain: one row.
-- Views: judged
-- $ks BIGINT[]: the numbers of ranks, each at most the length of the lists
-- NDCG (Järvelin and Kekäläinen 2002) with a gain of 1 for a relevant item and the discount 1 / log2(rank + 1).
WITH totals AS (
    SELECT count(*) FILTER (len(relevant) > 0) AS rows, count(*) FILTER (len(relevant) = 0) AS empty FROM judged
),

lists AS (
    SELECT
        row_number() OVER () AS number,
        len(relevant) AS wanted,
        list_transform(items, lambda item: list_contains(relevant, item)) AS hits
    FROM judged
    WHERE len(relevant) > 0
),

hits AS (
    SELECT ranked.number, ranked.wanted, ranked.rank
    FROM (SELECT number, wanted, generate_subscripts(hits, 1) AS rank, unnest(hits) AS hit FROM lists) AS ranked
    WHERE ranked.hit
),

ideals AS (
    SELECT n, sum(1 / log2(n + 1)) OVER (ORDER BY n) AS gain
    FROM (SELECT unnest(range(1, list_max($ks::BIGINT[]) + 1)) AS n) AS numbers
),

of_ranks AS (
    SELECT
        each.k AS k,
        count(hits.rank) / each.k / totals.rows AS precision,
        coalesce(sum(1 / hits.wanted), 0) / totals.rows AS recall,
        count(DISTINCT hits.number) / totals.rows AS hit_rate,
        coalesce(sum(1 / log2(hits.rank + 1) / ideals.gain), 0) / totals.rows AS ndcg
    FROM (SELECT unnest($ks::BIGINT[]) AS k) AS each
    INNER JOIN totals ON totals.rows > 0
    LEFT JOIN hits ON hits.rank <= each.k
    LEFT JOIN ideals ON ideals.n = least(each.k, hits.wanted)
    GROUP BY each.k, totals.rows
)

SELECT
    totals.rows AS rows,
    coalesce(
        (
            SELECT
                list({
                    'k': k, 'precision': precision, 'recall': recall, 'hit_rate': hit_rate, 'ndcg': ndcg
                } ORDER BY k)
            FROM of_ranks
        ),
        []
    ) AS at_k,
    nullif(
        concat_ws(
            '; ',
            CASE WHEN totals.rows + totals.empty = 0 THEN 'no prediction has a label' END,
            CASE WHEN totals.empty > 0 THEN totals.empty || ' lists without a relevant item are left out' END
        ),
        ''
    ) AS note
FROM totals
