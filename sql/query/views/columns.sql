-- The Parquet files, grouped by equal columns.
-- Grain: one row per set of columns.
-- Views:
-- $paths VARCHAR[]: the files
SELECT list(file_name ORDER BY file_name) AS files
FROM (
    SELECT file_name, list((name, type, duckdb_type) ORDER BY column_id) AS columns
    FROM parquet_schema($paths)
    GROUP BY file_name
) AS files
GROUP BY columns
