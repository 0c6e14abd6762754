-- How well the scores of two versions agree with the labels that have arrived.
-- Grain: one row per version.
-- Views: compared
-- $target VARCHAR: the class whose probability is the score
WITH scored AS (
    SELECT 'a' AS version, score_a::DOUBLE AS score, (label = $target)::INTEGER AS truth, prediction_a = label AS hit
    FROM compared WHERE label IS NOT NULL
    UNION ALL
    SELECT 'b' AS version, score_b::DOUBLE AS score, (label = $target)::INTEGER AS truth, prediction_b = label AS hit
    FROM compared WHERE label IS NOT NULL
),

bins AS (
    SELECT version, count(*) AS rows, abs(avg(score) - avg(truth)) AS gap
    FROM scored
    GROUP BY version, least(floor(score * 10), 9)
)

SELECT
    s.version AS version,
    count(*) AS rows,
    avg(s.truth) AS base_rate,
    avg(s.score) AS mean_score,
    avg(s.score) - avg(s.truth) AS shift,
    avg(s.hit::INTEGER) AS accuracy,
    avg((s.score - s.truth) ** 2) AS brier,
    avg(-ln(greatest(CASE WHEN s.truth = 1 THEN s.score ELSE 1 - s.score END, 1e-15))) AS log_loss,
    (SELECT sum(b.gap * b.rows) / sum(b.rows) FROM bins AS b WHERE b.version = s.version) AS calibration_error
FROM scored AS s
GROUP BY s.version
ORDER BY s.version
