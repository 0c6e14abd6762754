-- The candidates with the rules that each breaks, without the rules that a release waives for its key.
-- Grain: one row per input row.
-- Views: marked, released
SELECT
    m.* EXCLUDE (__broken),
    list_filter(m.__broken, lambda rule: NOT coalesce(list_contains(r.reasons, rule), FALSE)) AS __broken
FROM marked AS m
LEFT JOIN (SELECT __key, flatten(list(reasons)) AS reasons FROM released GROUP BY __key) AS r ON r.__key = m.__key
