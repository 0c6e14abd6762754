"""Makes up the outcome of each week, as it is known a month later: who bought nothing for four weeks.

Of those who got the offer, and would have bought nothing, one in five buys something after all.
"""

import duckdb

con = duckdb.connect()
con.read_parquet("lake/purchases/*.parquet").create_view("purchases")
sent = con.read_csv("drop/campaign/win_back/*/*/win_back.csv", filename=True)
sent.select("customer_id, regexp_extract(filename, 'win_back/([^/]+)/', 1) AS ds").create_view("sent")
outcomes = con.sql("""
    WITH weeks AS (SELECT DISTINCT ds, (ds || 'T00:00Z')::TIMESTAMPTZ + INTERVAL 7 DAY AS week_end FROM sent)

    SELECT
        p.customer_id,
        w.ds,
        count(*) FILTER (bought_at >= week_end AND bought_at < week_end + INTERVAL 28 DAY) = 0 AS buys_nothing,
        count(s.customer_id) > 0 AND hash(p.customer_id, w.ds) % 5 = 0 AS is_won_back,
        (buys_nothing AND NOT is_won_back)::INTEGER AS churned
    FROM purchases AS p
    CROSS JOIN weeks AS w
    LEFT JOIN sent AS s ON s.customer_id = p.customer_id AND s.ds = w.ds
    GROUP BY p.customer_id, w.ds, week_end
    HAVING min(bought_at) < week_end
""")
outcomes.select("customer_id, ds, churned").write_parquet("outcomes.parquet")
print(f"the outcomes of {len(outcomes):,} customers and weeks are known")
