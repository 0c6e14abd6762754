-- The classes and the mean confidence of a whole day, from the profiles of runs.
-- Grain: one row per run and column.
-- Views: profiles
SELECT ds, run_id, column_name, labels, counts, mean
FROM profiles
WHERE slice_column = '' AND kind IN ('class', 'confidence')
ORDER BY ds, column_name
