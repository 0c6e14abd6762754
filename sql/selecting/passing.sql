-- The selected rows that break no rule of the input suite.
-- Grain: one row per key.
-- Views: keyed
SELECT * EXCLUDE (__broken) FROM keyed WHERE len(__broken) = 0
