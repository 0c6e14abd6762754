-- The rows that both versions have scored, with the labels that have arrived for them.
-- Grain: one row per row of the input.
-- Views: scored_by_both, labels
SELECT s.*, l.label AS label
FROM scored_by_both AS s
LEFT JOIN (SELECT ds, key_text, any_value(label) AS label FROM labels GROUP BY ds, key_text) AS l
    ON l.ds = s.ds AND l.key_text = s.key_text
