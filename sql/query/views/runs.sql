-- What each run was about, and what it did.
-- Grain: one row per run.
-- Views: run_records
SELECT
    run_id,
    job,
    ds,
    state,
    model.name AS model_name,
    model.version AS model_version,
    model.digest AS model_digest,
    started_at,
    finished_at,
    ledger.candidates.rows AS candidates,
    ledger.scored.rows AS scored,
    ledger.unchanged.rows AS unchanged,
    ledger.quarantined.rows AS quarantined,
    ledger.duplicates.rows AS duplicates,
    ledger.overtaken.rows AS overtaken,
    ledger.candidates.rows
    = ledger.scored.rows
    + ledger.unchanged.rows
    + ledger.quarantined.rows
    + ledger.duplicates.rows
    + ledger.overtaken.rows
    AND ledger.candidates.hash_sum
    = ledger.scored.hash_sum
    + ledger.unchanged.hash_sum
    + ledger.quarantined.hash_sum
    + ledger.duplicates.hash_sum
    + ledger.overtaken.hash_sum AS balanced,
    carried_left,
    withdrawn,
    coalesce(marked.rows, 0) AS marked,
    statistics.mean_confidence AS mean_confidence,
    statistics.classes AS classes,
    statistics.reasons AS reasons,
    statistics.values AS value_range,
    statistics.items AS items,
    list_sum(list_transform(stages, lambda stage: stage.wall_s)) AS wall_s,
    list_sum(list_transform(stages, lambda stage: stage.cpu_s)) AS cpu_s,
    list_filter(stages, lambda stage: stage.stage = 'score')[-1].rows
    / nullif(list_filter(stages, lambda stage: stage.stage = 'score')[-1].wall_s, 0) AS rows_per_s,
    list_filter(stages, lambda stage: stage.stage = 'score')[-1].busy AS busy,
    list_sum(list_transform(stages, lambda stage: stage.bytes_read))::BIGINT AS bytes_read,
    list_sum(list_transform(stages, lambda stage: stage.bytes_written))::BIGINT AS bytes_written,
    peak_memory_bytes,
    len(committed) AS files,
    list_sum(list_transform(committed, lambda file: file.size))::BIGINT AS bytes,
    host,
    warnings,
    error
FROM stored.run_records
