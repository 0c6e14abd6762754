-- A sample of the rows of a table with many columns, for which sample.sql would take too much memory.
-- Grain: one row per row of the view, at most 1,000.
-- Views: profiled
SELECT * FROM profiled USING SAMPLE RESERVOIR (1000 ROWS) REPEATABLE (0)
