"""The number that an attribution explains, by task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_never

import numpy as np

from pipeline.explain.shapley import Score
from pipeline.model.outputs import probabilities
from pipeline.model.predictor import SLICE_ROWS, Predictor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.model.manifest import Signature

MOST_SCORES = 2_000_000
"""Maximum number of scores of a ranking that are in memory at once."""


def of_prediction(predictor: Predictor, signature: Signature, outputs: dict[str, Any]) -> tuple[str, Score]:
    """Returns the name of the number that explains a prediction with these outputs, and how it is computed.

    It is the probability of the predicted class, the value, the probability of the most likely label, or the score that
    the model gives to the first item.
    """
    match signature.task:
        case "classification":
            return _column(predictor, f"prob_class_{signature.classes.index(outputs['prediction'])}")
        case "regression":
            return _column(predictor, "value")
        case "multilabel":
            return _column(predictor, max(probabilities(signature), key=lambda name: float(outputs[name])))
        case "ranking":
            item = outputs["top_items"][0]
            return f"score of {item}", _of_item(predictor, signature, signature.classes.index(item))
        case _:
            assert_never(signature.task)


def _column(predictor: Predictor, name: str) -> tuple[str, Score]:
    def score(matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.asarray(predictor.predict(matrix, SLICE_ROWS)[name], np.float64)

    return name, score


def _of_item(predictor: Predictor, signature: Signature, index: int) -> Score:
    """Returns how one item is scored: a prediction has only the best items of each row."""
    step = max(1, MOST_SCORES // len(signature.classes))

    def score(matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        parts = (matrix[start : start + step] for start in range(0, len(matrix), step))
        return np.concatenate([predictor.raw(part)[:, index].float().numpy() for part in parts]).astype(np.float64)

    return score
