"""The columns of a prediction, as the task gives them."""

from __future__ import annotations

import pyarrow as pa

from pipeline.model.manifest import Signature


def output_schema(signature: Signature) -> pa.Schema:
    """Returns `prediction` (the class), `prediction_proba` (its probability) and `prob_class_<i>` of each class."""
    label = pa.int64() if isinstance(signature.classes[0], int) else pa.string()
    names = ["prediction_proba", *(f"prob_class_{index}" for index in range(len(signature.classes)))]
    fields = [("prediction", label), *((name, pa.float32()) for name in names)]
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in fields])
