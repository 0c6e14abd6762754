-- How each key of this export and of the one before it has changed.
-- Grain: one row per key.
-- Views: before, sent
SELECT
    coalesce(s.__key, b.__key) AS __key,
    CASE
        WHEN b.__key IS NULL THEN 'added'
        WHEN s.__key IS NULL THEN 'removed'
        WHEN b.__content <> s.__content THEN 'changed'
        ELSE 'same'
    END AS change
FROM sent AS s
FULL JOIN before AS b ON b.__key = s.__key
