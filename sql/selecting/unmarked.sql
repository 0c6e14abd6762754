-- The number and hash sum of withdrawn keys that no stored row says so of yet.
-- Grain: one row.
-- Views: latest, candidates
-- A row that says so has the fingerprint 0.
SELECT count(*) AS rows, coalesce(sum(hash(p.__key)), 0) AS hash_sum
FROM latest AS p ANTI JOIN candidates AS c ON c.__key = p.__key
WHERE p.fingerprint IS DISTINCT FROM 0
