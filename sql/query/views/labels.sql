-- The imported labels; if a key has several, that of the newest import.
-- Grain: one row per job, ds and key.
-- Views: labels
SELECT * EXCLUDE (__file) FROM stored.labels
QUALIFY row_number() OVER (PARTITION BY job, ds, key_text ORDER BY __file DESC) = 1
