-- The stored rows that were not paired by position, as ranges of places in their files.
-- Grain: one row per range.
-- Views:
-- $paths VARCHAR[], $firsts BIGINT[], $ends BIGINT[]: file, first place, and place after the last, of each range
SELECT
    unnest($paths) AS path,
    unnest($firsts) AS first_row,
    unnest($ends) AS end_row
