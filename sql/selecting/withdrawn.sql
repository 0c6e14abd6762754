-- The number and hash sum of keys that have a prediction but no longer a row in the input.
-- Grain: one row.
-- Views: latest, candidates
SELECT count(*) AS rows, coalesce(sum(hash(p.__key)), 0) AS hash_sum
FROM latest AS p ANTI JOIN candidates AS c ON c.__key = p.__key
