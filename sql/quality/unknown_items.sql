-- The number of ranked items that the model does not know.
-- Grain: one row.
-- Views: __staged
-- $items VARCHAR[]: the items of the model's signature, as text
SELECT count(*) AS occurrences
FROM (SELECT unnest(top_items)::VARCHAR AS item FROM __staged) AS ranked
ANTI JOIN (SELECT unnest($items::VARCHAR[]) AS item) AS known
    ON known.item = ranked.item
