-- The rows that are currently rejected, with the reasons: those of a day's newest quarantine file.
-- Grain: one row per rejected row of the input.
-- Views: quarantine, quarantine_files
-- The newest file counts even if it has no rows: then no row is rejected any longer.
SELECT q.* EXCLUDE (__file) FROM stored.quarantine AS q
SEMI JOIN (SELECT max(file) AS file FROM stored.quarantine_files GROUP BY parse_dirpath(file)) AS newest
    ON newest.file = q.__file
