-- A sample of the rows from which the edges of histograms are found; the same each time for one thread.
-- Grain: one row per row of the view, at most 200,000.
-- Views: profiled
SELECT * FROM profiled USING SAMPLE RESERVOIR (200000 ROWS) REPEATABLE (0)
