"""The columns of a prediction, by task."""

from __future__ import annotations

from typing import assert_never

import pyarrow as pa

from pipeline.model.manifest import Signature


def output_schema(signature: Signature) -> pa.Schema:
    """Returns the columns of a prediction; none of them is nullable.

    Classification: `prediction` (the class), `prediction_proba` (its probability), `prob_class_<i>` for each class.
    Regression: `value`, and `value_variance`, or `value_q<percent>` for each quantile. Multi-label: `prediction` (the
    list of labels), `prob_class_<i>` for each label. Ranking: `top_items` and `top_scores`, two lists, best first.
    """
    match signature.task:
        case "classification":
            numbers = ["prediction_proba", *probabilities(signature)]
            fields = [("prediction", _label(signature)), *((name, pa.float32()) for name in numbers)]
        case "regression":
            quantiles = [quantile(level) for level in signature.quantiles] if len(signature.quantiles) > 1 else []
            names = ["value", *(["value_variance"] if signature.variance else []), *quantiles]
            fields = [(name, pa.float32()) for name in names]
        case "multilabel":
            of_labels = [(name, pa.float32()) for name in probabilities(signature)]
            fields = [("prediction", pa.list_(_label(signature))), *of_labels]
        case "ranking":
            fields = [("top_items", pa.list_(_label(signature))), ("top_scores", pa.list_(pa.float32()))]
        case _:
            assert_never(signature.task)
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in fields])


def probabilities(signature: Signature) -> list[str]:
    return [f"prob_class_{index}" for index in range(len(signature.classes))]


def quantile(level: float) -> str:
    """Returns the column name of a quantile: `value_q5` for 0.05, `value_q97_5` for 0.975."""
    return f"value_q{level * 100:g}".replace(".", "_")


def _label(signature: Signature) -> pa.DataType:
    return pa.int64() if isinstance(signature.classes[0], int) else pa.string()
