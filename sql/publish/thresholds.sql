-- How many rows of each segment are wanted, and a score that at least so many reach: the others need not be sorted.
-- Grain: one row per segment.
-- Views: eligible
-- $top BIGINT: how many rows of each segment; NULL to go by the share
-- $millionths BIGINT: the share of each segment's rows, in millionths; a part of a row counts as one
WITH segments AS (
    SELECT __segment, count(*) AS rows, min(__score) AS low, max(__score) AS high
    FROM eligible
    GROUP BY __segment
),

counted AS (
    SELECT
        e.__segment,
        s.rows,
        coalesce(floor((e.__score - s.low) / nullif(s.high - s.low, 0) * 4096), 0) AS bin,
        min(e.__score) AS lowest,
        count(*) AS n
    FROM eligible AS e
    INNER JOIN segments AS s ON s.__segment IS NOT DISTINCT FROM e.__segment
    GROUP BY e.__segment, s.rows, bin
),

reached AS (
    SELECT
        __segment,
        rows,
        lowest,
        least(rows, coalesce($top, (rows * $millionths + 999999) // 1000000)) AS wanted,
        sum(n) OVER (PARTITION BY __segment ORDER BY bin DESC) AS above
    FROM counted
)

SELECT __segment, rows, wanted, max(lowest) FILTER (WHERE above >= wanted) AS threshold
FROM reached
GROUP BY __segment, rows, wanted
