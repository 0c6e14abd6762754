"""What the built-in checks look at in the rows of a prediction: as the model's task says."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import pairwise
from typing import TYPE_CHECKING, Any, assert_never

from duckdb import ColumnExpression, ConstantExpression, FunctionExpression

if TYPE_CHECKING:
    from duckdb import Expression

    from pipeline.model.manifest import Signature

TOLERANCE = 1e-4
"""Of a row's sum of float32 probabilities."""
SCORE = re.compile(r"prob_class_\d+")
VALUE = re.compile(r"value|value_variance|value_q\d+(_\d+)?")


def scores(columns: Sequence[str]) -> list[Expression]:
    """Returns the probabilities, a regression's values, or a ranking's best scores."""
    if "top_scores" in columns:
        return [best("top_scores")]
    return [ColumnExpression(name) for name in columns if SCORE.fullmatch(name) or VALUE.fullmatch(name)]


def best(column: str) -> Expression:
    """Returns the first of a list."""
    return FunctionExpression("list_extract", ColumnExpression(column), ConstantExpression(1))


def bad_rows(signature: Signature, columns: Sequence[str]) -> dict[str, Expression]:
    """Returns the row checks by name; each is true of a row that is as no model may give it."""
    match signature.task:
        case "classification":
            return dict(_of_classes(columns, ColumnExpression("prediction").isin(*_known(signature))))
        case "multilabel":
            known = FunctionExpression("list_value", *_known(signature))
            among = FunctionExpression("list_has_all", known, ColumnExpression("prediction"))
            found = dict(_of_classes(columns, among))
            del found["probabilities_sum"]
            return found
        case "regression":
            return dict(_of_values(signature, columns))
        case "ranking":
            return dict(_of_ranks(signature))
        case _:
            assert_never(signature.task)


def _known(signature: Signature) -> list[Expression]:
    return [ConstantExpression(label) for label in signature.classes]


def _of_classes(columns: Sequence[str], known: Expression) -> Iterator[tuple[str, Expression]]:
    found = scores(columns)
    total = reduce(lambda left, right: left + right, (column.cast("DOUBLE") for column in found))
    inside = ((column >= ConstantExpression(0)) & (column <= ConstantExpression(1)) for column in found)
    yield "probabilities_finite", ~_all(FunctionExpression("isfinite", column) for column in found)
    yield "probabilities_in_range", ~_all(inside)
    yield (
        "probabilities_sum",
        FunctionExpression("abs", total - ConstantExpression(1)) > ConstantExpression(TOLERANCE),
    )
    yield "prediction_known", ~known


def _of_values(signature: Signature, columns: Sequence[str]) -> Iterator[tuple[str, Expression]]:
    yield "values_finite", ~_all(FunctionExpression("isfinite", column) for column in scores(columns))
    if signature.variance:
        yield "variance_not_negative", ColumnExpression("value_variance") < ConstantExpression(0)
    if len(signature.quantiles) > 1:
        from pipeline.model.outputs import quantile

        names = [quantile(level) for level in signature.quantiles]
        ordered = (ColumnExpression(low) <= ColumnExpression(high) for low, high in pairwise(names))
        yield "quantiles_in_order", ~_all(ordered)


def _of_ranks(signature: Signature) -> Iterator[tuple[str, Expression]]:
    """Whether the items are known is asked apart (`quality/unknown_items`): of 10,000 it takes a join."""
    items, scores = ColumnExpression("top_items"), ColumnExpression("top_scores")
    top = ConstantExpression(signature.top)
    yield "scores_finite", ~FunctionExpression("isfinite", FunctionExpression("list_sum", scores))
    complete = (FunctionExpression("len", scores) == top) & (FunctionExpression("len", items) == top)
    yield "ranking_complete", ~(complete & (FunctionExpression("list_unique", items) == top))
    yield "ranking_in_order", FunctionExpression("list_reverse_sort", scores) != scores


def _all(conditions: Any) -> Expression:
    joined: Expression = reduce(lambda left, right: left & right, conditions)
    return joined
