-- The keys that had a prediction before the run.
-- Grain: one row.
-- Views: latest
SELECT count(*) AS rows FROM latest
