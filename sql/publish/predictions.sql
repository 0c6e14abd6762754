-- The rows of one period that are published: the newest revision of each key, without those that are withdrawn.
-- Grain: one row per key.
-- Views: parts
SELECT p.* FROM parts AS p
ANTI JOIN (
    SELECT key_text, revision FROM parts
    WHERE revision > 0
) AS newer
    ON newer.key_text = p.key_text AND newer.revision > p.revision
WHERE p.reason <> 'withdrawn'
