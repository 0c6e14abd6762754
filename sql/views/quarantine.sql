-- The rows that are rejected now, with the reasons; those of the newest run of a day.
-- Grain: one row per rejected row of the input.
-- Views: quarantine, quarantine_files
-- The newest file counts even if it has no rows: they are no longer rejected then.
SELECT q.* EXCLUDE (__file) FROM stored.quarantine AS q
SEMI JOIN (SELECT max(file) AS file FROM stored.quarantine_files GROUP BY parse_dirpath(file)) AS newest
    ON newest.file = q.__file
