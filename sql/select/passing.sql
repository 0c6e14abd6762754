-- The candidates, one row a key, that break no rule of the input's suite.
-- Grain: one row per key.
-- Views: keyed
SELECT * EXCLUDE (__broken) FROM keyed WHERE len(__broken) = 0
