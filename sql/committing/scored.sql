-- The predictions of the run: staged before the commit, published after it.
-- Grain: one row.
-- Views: scored
SELECT count(*) AS rows, coalesce(sum(hash(__key)), 0) AS hash_sum FROM scored
