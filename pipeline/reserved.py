"""The columns of what we store that are ours: no key or carried column has such a name, in capitals or not."""

from __future__ import annotations

import re

RESERVED = (
    {"job", "ds", "model_version", "prediction", "prediction_proba", "value", "rank", "item", "score"}
    | {"scored_at", "quarantined_at", "run_id", "reason", "reasons", "fingerprint", "revision", "key_text"}
)  # fmt: skip
"""Whatever the model."""
OF_A_MODEL = re.compile(r"prob_class_\d+|value_variance|value_q\d+(_\d+)?|top_items|top_scores")
"""Further columns of a prediction, as its task gives them."""


def is_reserved(column: str) -> bool:
    folded = column.casefold()
    return folded in RESERVED or bool(OF_A_MODEL.fullmatch(folded)) or folded.startswith(("prob_class_", "__"))
