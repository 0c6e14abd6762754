-- The cases of a period that are open, and those that it has closed, each with the period since which it is open.
-- Grain: one row per case.
-- Views: open_before, scored
-- $ds VARCHAR: the period
-- $enter DOUBLE: the score from which a case opens
-- $leave DOUBLE: the score below which a period counts towards closing it
-- $close_after BIGINT: the number of such periods in a row that close it
WITH high AS (
    SELECT __case, max(__score) AS score, first(__text ORDER BY __score DESC, __text) AS key_text
    FROM scored
    WHERE __score >= $leave
    GROUP BY __case
)

SELECT
    coalesce(h.__case, b.__case) AS __case,
    coalesce(h.key_text, b.key_text) AS key_text,
    h.score,
    coalesce(b.since, $ds) AS since,
    CASE WHEN h.__case IS NULL THEN b.quiet + 1 ELSE 0 END AS quiet,
    CASE
        WHEN b.__case IS NULL THEN 'entered'
        WHEN h.__case IS NULL AND b.quiet + 1 >= $close_after THEN 'left'
        ELSE 'stays'
    END AS status,
    b.alerted_on
FROM high AS h
FULL JOIN open_before AS b ON b.__case = h.__case
WHERE b.__case IS NOT NULL OR h.score >= $enter
