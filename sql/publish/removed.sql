-- The rows of the export before that are no longer in this one.
-- Grain: one row per key.
-- Views: before, changes
SELECT b.* FROM before AS b
SEMI JOIN changes AS c ON c.__key = b.__key AND c.change = 'removed'
