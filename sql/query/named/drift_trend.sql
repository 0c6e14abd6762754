-- How far each column was from its references, day by day; columns that ever raised an alarm come first.
-- Grain: one row per job, ds, model_version, slice, column_name and reference.
-- Views: drift
-- $job VARCHAR: one job, default NULL for all
-- $column_name VARCHAR: one column, default NULL for all
-- $reference VARCHAR: training, trailing or previous_model, default NULL for all
-- $from DATE: the first day, default NULL for no limit
-- $to DATE: the last day, default NULL for no limit
SELECT
    job,
    model_version,
    slice_column,
    slice,
    column_name,
    reference,
    ds,
    outcome,
    psi,
    threshold,
    excess,
    mean_shift,
    missing
FROM (
    SELECT
        *,
        bool_or(outcome IN ('warning', 'critical'))
            OVER (PARTITION BY job, model_version, slice_column, slice, column_name, reference) AS ever_alarmed
    FROM drift
) AS judged
WHERE ($job IS NULL OR job = $job)
    AND ($column_name IS NULL OR column_name = $column_name)
    AND ($reference IS NULL OR reference = $reference)
    AND ($from IS NULL OR ds >= $from::VARCHAR)
    AND ($to IS NULL OR left(ds, length($to::VARCHAR)) <= $to::VARCHAR)
ORDER BY ever_alarmed DESC, job, model_version, slice_column, slice, column_name, reference, ds
