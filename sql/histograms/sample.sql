-- A sample of the rows from which histogram edges are computed; with one thread, the same every time.
-- Grain: one row per row of the view, at most 200,000.
-- Views: profiled
SELECT * FROM profiled USING SAMPLE RESERVOIR (200000 ROWS) REPEATABLE (0)
