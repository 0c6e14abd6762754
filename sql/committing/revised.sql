-- The predictions of the run whose keys had one before.
-- Grain: one row.
-- Views: scored
SELECT count(*) AS rows FROM scored WHERE revision > 0
