-- What a multi-label run predicted, by the reason for scoring; a row with two labels counts for both, without under ''.
-- Grain: one row per label and reason.
-- Views: scored
SELECT
    u.label AS prediction,
    s.reason AS reason,
    count(*) AS rows
FROM scored AS s, unnest(if(len(s.prediction) = 0, [''], s.prediction::VARCHAR[])) AS u (label)
GROUP BY ALL
ORDER BY ALL
