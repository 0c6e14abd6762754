-- How the scores of two versions are distributed, over twenty equal bins.
-- Grain: one row per bin.
-- Views: compared
-- $low DOUBLE: the lower edge of the first bin
-- $high DOUBLE: the upper edge of the last bin
WITH binned AS (
    SELECT least(floor((score_a - $low) / ($high - $low) * 20), 19) AS bin, 1 AS a, 0 AS b FROM compared
    UNION ALL
    SELECT least(floor((score_b - $low) / ($high - $low) * 20), 19) AS bin, 0 AS a, 1 AS b FROM compared
)

SELECT
    $low + bins.bin * ($high - $low) / 20 AS low,
    $low + (bins.bin + 1) * ($high - $low) / 20 AS high,
    coalesce(sum(binned.a), 0)::BIGINT AS rows_a,
    coalesce(sum(binned.b), 0)::BIGINT AS rows_b
FROM (SELECT unnest(range(20)) AS bin) AS bins LEFT JOIN binned ON binned.bin = bins.bin
GROUP BY bins.bin
ORDER BY bins.bin
