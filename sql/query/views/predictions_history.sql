-- All stored predictions: every revision of every model version.
-- Grain: one row per job, ds, model_version, key and revision.
-- Views: unrevised, revised
SELECT * FROM stored.unrevised
UNION ALL BY NAME
SELECT * FROM stored.revised
