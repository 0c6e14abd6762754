-- The keys with the highest score on a day; equal scores are ordered by key.
-- Grain: one row per job and rank.
-- Views: predictions
-- $ds DATE: the day
-- $class BIGINT: the class whose probability is the score, from 0 as in prob_class_0, default 1
-- $rows BIGINT: how many keys of each job, default 20
-- $job VARCHAR: one job, default NULL for all
WITH scored AS (
    SELECT
        job, ds, key_text, prediction, model_version, list_value(*COLUMNS('^prob_class_[0-9]+$')) AS scores
    FROM predictions
    WHERE ds = $ds::VARCHAR AND ($job IS NULL OR job = $job)
)

SELECT
    job,
    row_number() OVER (PARTITION BY job ORDER BY scores[$class + 1] DESC, key_text) AS rank,
    key_text,
    scores[$class + 1] AS score,
    prediction,
    model_version
FROM scored
QUALIFY rank <= $rows
ORDER BY job, rank
