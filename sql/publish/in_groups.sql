-- The chosen rows, each with whether it is held out: by campaign and key alone, so that it is the same every time.
-- Grain: one row per key.
-- Views: highest
-- $campaign VARCHAR: name of the campaign; NULL holds no row out
-- $held BIGINT: how many of 10,000 buckets are held out
SELECT
    h.*,
    CASE
        WHEN md5_number_lower($campaign || chr(31) || h.__text) % 10000 < $held THEN 'holdout'
        ELSE 'target'
    END AS export_group
FROM highest AS h
