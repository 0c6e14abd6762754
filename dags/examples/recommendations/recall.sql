WITH night AS (  -- the last that is scored
    SELECT max(ds)::DATE AS day FROM predictions
),

bought AS (
    SELECT p.customer_id, list(DISTINCT p.product) AS products
    FROM purchases AS p
    INNER JOIN night AS n ON p.day > n.day AND p.day <= n.day + 30
    GROUP BY p.customer_id
),

popular AS (
    SELECT p.product
    FROM purchases AS p
    INNER JOIN night AS n ON p.day <= n.day
    GROUP BY p.product
    ORDER BY count(DISTINCT p.customer_id) DESC, p.product
    LIMIT 10
)

SELECT
    count(*) AS customers,
    -- shares of what each customer bought in the 30 days after it: among the ten, and among those that most had bought
    avg(len(list_intersect(r.top_items, b.products)) / len(b.products)) AS recall_at_10,
    avg(len(list_intersect((SELECT list(product) FROM popular), b.products)) / len(b.products)) AS of_popularity
FROM predictions AS r
INNER JOIN night AS n ON r.ds::DATE = n.day
INNER JOIN bought AS b ON b.customer_id = r.customer_id
