-- What was chosen of each segment, and the lowest score among it.
-- Grain: one row per segment.
-- Views: chosen
SELECT
    __segment AS segment,
    count(*) AS chosen,
    count(*) FILTER (WHERE export_group = 'holdout') AS held_out,
    min(__score) AS lowest_score
FROM chosen
GROUP BY __segment
ORDER BY segment
