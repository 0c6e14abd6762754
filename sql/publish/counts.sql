-- How many rows are sent, and how many different hashes their keys have.
-- Grain: one row.
-- Views: outgoing
SELECT
    count(*) AS rows,
    count(DISTINCT hash(key_text)) AS keys
FROM outgoing
