"""Columns and types of the relations in the schema `stored`, from which `views.py` makes the public views."""

from __future__ import annotations

FILE = "__file"

PREDICTIONS = {
    "prediction": "VARCHAR",
    "prediction_proba": "FLOAT",
    "prob_class_0": "FLOAT",
    "prob_class_1": "FLOAT",
    "value": "FLOAT",
    "top_items": "VARCHAR[]",
    "top_scores": "FLOAT[]",
    "scored_at": "TIMESTAMPTZ",
    "run_id": "VARCHAR",
    "reason": "VARCHAR",
    "fingerprint": "BIGINT",
    "revision": "INTEGER",
    "job": "VARCHAR",
    "ds": "VARCHAR",
    "model_version": "VARCHAR",
    "key_text": "VARCHAR",
}
"""Columns that predictions have in every lake, even an empty one. Key, carried and further class columns are added."""
QUARANTINE = {
    "reasons": "VARCHAR[]",
    "run_id": "VARCHAR",
    "quarantined_at": "TIMESTAMPTZ",
    "job": "VARCHAR",
    "ds": "VARCHAR",
    FILE: "VARCHAR",
}

QUALITY = {
    "run_id": "VARCHAR",
    "job": "VARCHAR",
    "ds": "VARCHAR",
    "model_version": "VARCHAR",
    "suite": "VARCHAR",
    "name": "VARCHAR",
    "expectation": "VARCHAR",
    "column": "VARCHAR",
    "severity": "VARCHAR",
    "success": "BOOLEAN",
    "outcome": "VARCHAR",
    "observed": "VARCHAR",
    "unexpected": "BIGINT",
    "share": "DOUBLE",
    "engine": "VARCHAR",
    "validated_at": "TIMESTAMPTZ",
    "expected": "VARCHAR",
}

HIVE = {"job": "VARCHAR", "ds": "VARCHAR"}
OF_DAYS = {
    "profiles": HIVE
    | {"model_version": "VARCHAR", "run_id": "VARCHAR", "profiled_at": "TIMESTAMPTZ"}
    | dict.fromkeys(("slice_column", "slice", "kind", "column_name"), "VARCHAR")
    | dict.fromkeys(("rows", "nulls", "nans", "infinite"), "BIGINT")
    | dict.fromkeys(("low", "high", "mean", "deviation", "m2"), "DOUBLE")
    | {"quantiles": "DOUBLE[]", "edges": "DOUBLE[]", "labels": "VARCHAR[]", "counts": "BIGINT[]"},
    "drift": HIVE
    | dict.fromkeys(("model_version", "run_id", "slice_column", "slice", "kind", "column_name"), "VARCHAR")
    | {"reference": "VARCHAR", "outcome": "VARCHAR"}
    | dict.fromkeys(("psi", "js", "mean_shift", "excess", "threshold", "p_value", "p_adjusted"), "DOUBLE")
    | dict.fromkeys(("rows", "reference_rows", "reference_days", "bins"), "BIGINT")
    | dict.fromkeys(("dispersion", "missing", "reference_missing"), "DOUBLE")
    | {"computed_at": "TIMESTAMPTZ"},
    "performance": HIVE
    | {"model_version": "VARCHAR", "run_id": "VARCHAR", "class": "VARCHAR", "rows": "BIGINT", "positives": "BIGINT"}
    | dict.fromkeys(("auc", "log_loss", "brier", "mean_score", "base_rate", "calibration_error"), "DOUBLE")
    | {
        "calibration": "STRUCT(low DOUBLE, high DOUBLE, rows BIGINT, mean_score DOUBLE, share DOUBLE)[]",
        "predictions": "BIGINT",
        "computed_at": "TIMESTAMPTZ",
    }
    | dict.fromkeys(("accuracy", "precision", "recall", "f1"), "DOUBLE")
    | dict.fromkeys(("bias", "mae", "rmse", "r2", "mean_label"), "DOUBLE")
    | {
        "quantiles": "STRUCT(level DOUBLE, covered DOUBLE, pinball DOUBLE)[]",
        "at_k": 'STRUCT(k BIGINT, "precision" DOUBLE, recall DOUBLE, hit_rate DOUBLE, ndcg DOUBLE)[]',
        "note": "VARCHAR",
    },
}
"""Columns of what is computed per day, by folder: one file per run in `<folder>/job=/ds=/model_version=/`."""
LABELS = {
    "label": "VARCHAR",
    "label_value": "DOUBLE",
    "label_items": "VARCHAR[]",
    "key_text": "VARCHAR",
    FILE: "VARCHAR",
} | HIVE
