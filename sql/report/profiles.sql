-- What the profiles of runs say of a whole day: its classes, and its mean confidence.
-- Grain: one row per run and column.
-- Views: profiles
SELECT ds, run_id, column_name, labels, counts, mean
FROM profiles
WHERE slice_column = '' AND kind IN ('class', 'confidence')
ORDER BY ds, column_name
