-- The rows that a suppression list names and no list before it did.
-- Grain: one row per key.
-- Views: listed, looked_up, suppressed
SELECT r.__key AS __key
FROM looked_up AS r
SEMI JOIN listed AS l ON l.__value = r.__value
ANTI JOIN suppressed AS s ON s.__key = r.__key
