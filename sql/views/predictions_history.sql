-- All that was ever predicted: every revision, of every model version.
-- Grain: one row per job, ds, model_version, key and revision.
-- Views: predictions
SELECT * FROM stored.predictions
