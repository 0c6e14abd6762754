-- The newest revision of each key, for every model version, without those of withdrawn keys that are marked.
-- Grain: one row per job, ds, model_version and key.
-- Views: unrevised, revised
-- An anti-join against the few rows with a later revision; a window function over all rows costs fifteen times as much.
SELECT * FROM stored.unrevised
UNION ALL BY NAME
SELECT r.* FROM stored.revised AS r
ANTI JOIN (
    SELECT job, ds, model_version, key_text, revision FROM stored.revised
    WHERE revision > 0
) AS newer
    ON newer.job = r.job
    AND newer.ds = r.ds
    AND newer.model_version = r.model_version
    AND newer.key_text = r.key_text
    AND newer.revision > r.revision
WHERE r.reason <> 'withdrawn'
