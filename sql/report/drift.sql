-- How each column of a whole day compares with its references.
-- Grain: one row per run, reference and column.
-- Views: drift
SELECT ds, run_id, reference, column_name, outcome, psi
FROM drift
WHERE slice_column = ''
ORDER BY ds, reference, column_name
