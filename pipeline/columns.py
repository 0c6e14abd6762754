"""Names of the columns that Lakescore itself writes. No key or carried column may have one of these names."""

from __future__ import annotations

import re

HIVE = ("job", "ds", "model_version")
"""The partition columns; their values are in the folder names."""
OF_PREDICTION = ("scored_at", "run_id", "reason", "fingerprint", "revision")
"""Columns added to every prediction, beside key, carried columns and model outputs; their types: `staging/rows.py`."""
OF_REJECTED = ("reasons", "run_id", "quarantined_at")
"""Columns added to every row in quarantine, beside key, carried columns and features."""
OUTPUTS = ("prediction", "prediction_proba", "value", "rank", "item", "score", "top_items", "top_scores")
"""The model's outputs that have a fixed name; `model/outputs.py` says which of them a task has."""
KEY_TEXT = "key_text"
"""Column that exists only in views: the key as text, its columns joined by commas."""
RESERVED = frozenset({*HIVE, *OF_PREDICTION, *OF_REJECTED, *OUTPUTS, KEY_TEXT})

_NUMBERED_OUTPUT = re.compile(r"prob_class_\d+|value_variance|value_q\d+(_\d+)?")


def is_output(column: str) -> bool:
    """Tells whether a column of a prediction holds an output of the model."""
    return column in OUTPUTS or bool(_NUMBERED_OUTPUT.fullmatch(column))


def is_reserved(column: str) -> bool:
    """Tells whether the name is forbidden for key and carried columns; case-insensitive, as in SQL."""
    folded = column.casefold()
    return folded in RESERVED or is_output(folded) or folded.startswith(("prob_class_", "__"))
