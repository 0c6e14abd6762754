-- The stored rows that were not paired by position, as ranges of places in their files.
-- Grain: one row per range.
-- Views:
-- $paths VARCHAR[]: the file of each range
-- $firsts BIGINT[]: its first place
-- $ends BIGINT[]: the place after its last one
SELECT
    unnest($paths) AS path,
    unnest($firsts) AS first_row,
    unnest($ends) AS end_row
