-- The rows of this export with a given change.
-- Grain: one row per key.
-- Views: changes, sent
-- $change VARCHAR: added or changed
SELECT s.* FROM sent AS s
SEMI JOIN changes AS c ON c.__key = s.__key AND c.change = $change
