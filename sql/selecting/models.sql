-- The digest of the model that each part file says it is of; a file that says nothing is left out.
-- Grain: one row per file.
-- Views:
-- $paths VARCHAR[]: the files
SELECT
    file_name,
    decode(value) AS model_digest
FROM parquet_kv_metadata($paths)
WHERE decode(key) = 'lakescore.model_digest'
