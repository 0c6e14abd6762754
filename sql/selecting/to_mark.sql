-- The stored rows of withdrawn keys that no row says so of yet: those to be marked.
-- Grain: one row per key.
-- Views: latest, candidates, stored_rows
-- A row that says so has the fingerprint 0.
WITH withdrawn AS (
    SELECT p.__key AS __key, p.revision AS revision FROM latest AS p
    ANTI JOIN candidates AS c ON c.__key = p.__key
    WHERE p.fingerprint IS DISTINCT FROM 0
)

SELECT s.* EXCLUDE (__key) FROM stored_rows AS s
SEMI JOIN withdrawn AS w ON w.__key = s.__key AND w.revision = s.revision
