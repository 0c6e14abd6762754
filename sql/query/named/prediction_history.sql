-- Everything that was ever predicted for a key, newest day first.
-- Grain: one row per job, ds, model_version and revision.
-- Views: predictions, predictions_history
-- $key VARCHAR: the key; several columns are joined by commas, and a comma within a value is written \,
-- $job VARCHAR: one job, default NULL for all
-- $ds DATE: one day, default NULL for all
SELECT
    h.job AS job,
    h.ds AS ds,
    h.model_version AS model_version,
    h.revision AS revision,
    h.prediction AS prediction,
    h.prediction_proba AS proba,
    h.value AS value,
    h.reason AS reason,
    h.scored_at AS scored_at,
    p.run_id IS NOT NULL AS is_current
FROM predictions_history AS h
LEFT JOIN (
    SELECT job, ds, model_version, revision, run_id FROM predictions
    WHERE key_text = $key AND ($job IS NULL OR job = $job) AND ($ds IS NULL OR ds = $ds::VARCHAR)
) AS p
    ON p.job = h.job AND p.ds = h.ds AND p.model_version = h.model_version AND p.revision = h.revision
WHERE h.key_text = $key AND ($job IS NULL OR h.job = $job) AND ($ds IS NULL OR h.ds = $ds::VARCHAR)
ORDER BY job, ds DESC, h.scored_at DESC, model_version, revision DESC
