-- The rows of a staged file whose keys no other run has published since the plan.
-- Grain: one row per key.
-- Views: rest, meanwhile
SELECT r.* EXCLUDE (__key) FROM rest AS r ANTI JOIN meanwhile AS m ON m.__key = r.__key
