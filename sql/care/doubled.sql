-- How many rows stand beside another one of the same key and revision.
-- Grain: one row.
-- Views: stored
SELECT count(*) - count(DISTINCT (__key, revision)) AS doubled FROM stored
