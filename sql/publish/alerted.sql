-- The flagged cases, each with its alert: sent now (or before for this period), earlier, cut by the budget, or none.
-- Grain: one row per case.
-- Views: flagged, told
-- $ds VARCHAR: the period
-- $enter DOUBLE: the score from which a case is worth an alert
-- $budget BIGINT: the most alerts of a period; NULL for no limit
WITH known AS (
    SELECT f.* EXCLUDE (alerted_on), coalesce(t.alerted_on, f.alerted_on) AS alerted_on
    FROM flagged AS f
    LEFT JOIN (SELECT __case, max(alerted_on) AS alerted_on FROM told GROUP BY __case) AS t ON t.__case = f.__case
),

ranked AS (
    SELECT
        *,
        coalesce(alerted_on IS NULL AND status <> 'left' AND score >= $enter, FALSE) AS is_new,
        row_number() OVER (PARTITION BY is_new ORDER BY score DESC, __case) AS place,
        (SELECT count(DISTINCT t.__case) FROM told AS t WHERE t.alerted_on = $ds) AS spent
    FROM known
),

judged AS (
    SELECT
        *,
        CASE
            WHEN alerted_on = $ds THEN 'sent'
            WHEN alerted_on IS NOT NULL THEN 'earlier'
            WHEN NOT is_new THEN 'none'
            WHEN $budget IS NULL OR place <= $budget - spent THEN 'sent'
            ELSE 'cut'
        END AS alert
    FROM ranked
)

SELECT
    __case,
    key_text,
    score,
    status,
    since,
    quiet,
    alert,
    CASE WHEN alert = 'sent' THEN $ds ELSE alerted_on END AS alerted_on,
    alert = 'sent' AND is_new AS is_new
FROM judged
ORDER BY score DESC NULLS LAST, __case
