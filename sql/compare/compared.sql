-- The rows that both versions have scored, with the labels that have arrived; of several, that of the newest import.
-- Grain: one row per row of the input.
-- Views: scored_by_both, labels
SELECT s.*, l.label AS label
FROM scored_by_both AS s
LEFT JOIN (SELECT ds, key_text, arg_max(label, filename) AS label FROM labels GROUP BY ds, key_text) AS l
    ON l.ds = s.ds AND l.key_text = s.key_text
