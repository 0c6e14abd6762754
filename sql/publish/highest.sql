-- The wanted rows of each segment, those with the highest scores; of equal scores, those with the lowest keys.
-- Grain: one row per key.
-- Views: eligible, thresholds
SELECT e.*, row_number() OVER (PARTITION BY e.__segment ORDER BY e.__score DESC, e.__key) AS export_rank
FROM eligible AS e
INNER JOIN thresholds AS t ON t.__segment IS NOT DISTINCT FROM e.__segment
WHERE e.__score >= t.threshold
QUALIFY export_rank <= t.wanted
