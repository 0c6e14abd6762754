-- The number of distinct items in the rankings of a run.
-- Grain: one row.
-- Views: scored
SELECT count(DISTINCT item) AS items
FROM (SELECT unnest(top_items) AS item FROM scored) AS ranked
