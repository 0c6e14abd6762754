-- How many of the relevant items are among the first k of each list, and how far up: precision, recall, NDCG.
-- Grain: one row.
-- Views: judged
-- $ks BIGINT[]: the numbers of ranks, each at most the length of the lists
-- NDCG (Järvelin and Kekäläinen 2002) with a gain of 1 for a relevant item and the discount 1 / log2(rank + 1).
WITH numbered AS (SELECT row_number() OVER () AS number, items, relevant FROM judged WHERE len(relevant) > 0),

ranked AS (
    SELECT
        number,
        generate_subscripts(items, 1) AS rank,
        unnest(list_transform(items, lambda item: list_contains(relevant, item))) AS hit
    FROM numbered
),

each AS (SELECT unnest($ks::BIGINT[]) AS k),

gains AS (
    SELECT
        ranked.number AS number,
        each.k AS k,
        count(*) FILTER (ranked.hit) AS hits,
        coalesce(sum(1 / log2(ranked.rank + 1)) FILTER (ranked.hit), 0) AS gain
    FROM each INNER JOIN ranked ON ranked.rank <= each.k
    GROUP BY ranked.number, each.k
),

of_ranks AS (
    SELECT
        gains.k AS k,
        avg(gains.hits / gains.k) AS precision,
        avg(gains.hits / len(numbered.relevant)) AS recall,
        avg((gains.hits > 0)::INTEGER) AS hit_rate,
        avg(
            gains.gain
            / list_sum(list_transform(range(least(gains.k, len(numbered.relevant))), lambda rank: 1 / log2(rank + 2)))
        ) AS ndcg
    FROM gains INNER JOIN numbered ON numbered.number = gains.number
    GROUP BY gains.k
),

totals AS (
    SELECT count(*) FILTER (len(relevant) > 0) AS rows, count(*) FILTER (len(relevant) = 0) AS empty FROM judged
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
