-- A sample of the rows of a large day, from which histogram edges are computed before the others are scored.
-- Grain: one row per row of the view, at most 20,000.
-- Views: profiled
SELECT * FROM profiled USING SAMPLE RESERVOIR (20000 ROWS) REPEATABLE (0)
