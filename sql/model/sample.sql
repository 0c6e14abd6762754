-- A few of the training rows, on which a model is tried when it is registered; with one thread, the same every time.
-- Grain: one row per row of the view, at most 2,000.
-- Views: training
SELECT * FROM training USING SAMPLE RESERVOIR (2000 ROWS) REPEATABLE (0)
