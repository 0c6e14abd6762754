-- How many of the first k items two rankings have in common, on average, and how often they are the same in order.
-- Grain: one row per k.
-- Views: compared
-- $ks BIGINT[]: the numbers of items
SELECT
    each.k AS k,
    avg(len(list_intersect(c.items_a[:each.k], c.items_b[:each.k]))) AS in_both,
    avg(len(list_intersect(c.items_a[:each.k], c.items_b[:each.k])) / each.k) AS overlap,
    avg((c.items_a[:each.k] = c.items_b[:each.k])::INTEGER) AS same
FROM (SELECT unnest($ks::BIGINT[]) AS k) AS each CROSS JOIN compared AS c
GROUP BY each.k
ORDER BY each.k
