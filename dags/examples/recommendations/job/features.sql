-- The products that each customer has bought last, newest first: 30 numbers of the catalogue, -1 for none.
-- Training reads the same SELECT. Products that the catalogue lacks are unknown to the model, and left out.
SELECT
    c.customer_id,
    coalesce(b.bought, 0) AS bought,
    list_resize(coalesce(b.recent, []), 30, -1) AS recent
FROM customers AS c
LEFT JOIN (
    SELECT
        p.customer_id,
        count(*) AS bought,
        (list(k.number ORDER BY p.day DESC, k.number))[1:30] AS recent
    FROM purchases AS p
    INNER JOIN catalogue AS k ON k.product = p.product
    WHERE p.day <= $ds::DATE
    GROUP BY p.customer_id
) AS b ON b.customer_id = c.customer_id
