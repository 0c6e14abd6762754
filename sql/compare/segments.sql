-- The segments whose decisions change most, by the lower end of the 95% interval (Wilson) of the share that flips.
-- Where no decisions are made, those whose scores move most, by the lower end of the 95% interval of the mean shift.
-- Grain: one row per column and segment.
-- Views: segmented
-- $least BIGINT: the number of rows that a segment must have
WITH counted AS (
    SELECT
        column_name,
        segment,
        count(*) AS rows,
        avg(flipped::INTEGER) AS share,
        avg(shift) AS mean_shift,
        CASE WHEN count(flipped) = 0 THEN abs(avg(shift)) - 1.96 * stddev_samp(shift) / sqrt(count(*)) END AS moved
    FROM segmented
    GROUP BY column_name, segment
    HAVING count(*) >= $least
)

SELECT
    column_name,
    segment,
    rows,
    share,
    (share + 1.92 / rows - 1.96 * sqrt(share * (1 - share) / rows + 0.9604 / rows ** 2)) / (1 + 3.8416 / rows) AS low,
    mean_shift
FROM counted
ORDER BY low DESC, moved DESC, abs(mean_shift) DESC, column_name, segment
LIMIT 12
