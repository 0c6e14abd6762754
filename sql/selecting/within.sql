-- The stored rows in the ranges of gaps.sql.
-- Grain: one row per stored row.
-- Views: __placed, __gaps
SELECT p.* FROM __placed AS p
SEMI JOIN __gaps AS g
    ON g.path = p.__lakescore_file AND p.file_row_number >= g.first_row AND p.file_row_number < g.end_row
