-- How many items a ranking's run has named to anybody.
-- Grain: one row.
-- Views: scored
SELECT count(DISTINCT item) AS items
FROM (SELECT unnest(top_items) AS item FROM scored) AS ranked
