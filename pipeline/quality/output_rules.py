"""The built-in checks of prediction rows as SQL expressions, which depend on the model's task."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, assert_never

from duckdb import ColumnExpression, ConstantExpression, FunctionExpression

from pipeline.database import wide

if TYPE_CHECKING:
    from duckdb import Expression

    from pipeline.model.manifest import Signature

TOLERANCE = 1e-4
"""Largest difference from 1 that the sum of a row's float32 probabilities may have."""
SCORE = re.compile(r"prob_class_\d+")
VALUE = re.compile(r"value|value_variance|value_q\d+(_\d+)?")


def scores(columns: Sequence[str]) -> list[Expression]:
    """Returns the probability columns, a regression's value columns, or a ranking's best score."""
    if "top_scores" in columns:
        return [best("top_scores")]
    return [ColumnExpression(name) for name in columns if SCORE.fullmatch(name) or VALUE.fullmatch(name)]


def best(column: str) -> Expression:
    """Returns the first element of a list column."""
    return FunctionExpression("list_extract", ColumnExpression(column), ConstantExpression(1))


def bad_rows(signature: Signature, columns: Sequence[str]) -> dict[str, Expression]:
    """Returns the row checks by name; each expression is true for an invalid row."""
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
    total = wide.total(found)
    inside = wide.all_within(found, 0, 1)
    yield "probabilities_finite", ~FunctionExpression("isfinite", total)
    yield "probabilities_in_range", ~(inside | FunctionExpression("isnan", total))  # NaN is not finite, and said so
    yield (
        "probabilities_sum",
        FunctionExpression("abs", total - ConstantExpression(1)) > ConstantExpression(TOLERANCE),
    )
    yield "prediction_known", ~known


def _of_values(signature: Signature, columns: Sequence[str]) -> Iterator[tuple[str, Expression]]:
    yield "values_finite", ~FunctionExpression("isfinite", wide.total(scores(columns)))
    if signature.variance:
        yield "variance_not_negative", ColumnExpression("value_variance") < ConstantExpression(0)
    if len(signature.quantiles) > 1:
        from pipeline.model.outputs import quantile

        names = [quantile(level) for level in signature.quantiles]
        ordered = (ColumnExpression(low) <= ColumnExpression(high) for low, high in pairwise(names))
        yield "quantiles_in_order", ~FunctionExpression("least", *ordered)


def _of_ranks(signature: Signature) -> Iterator[tuple[str, Expression]]:
    """Yields the checks of rankings. Unknown items need a join, as there may be 10,000: see `quality/unknown_items`."""
    items, scores = ColumnExpression("top_items"), ColumnExpression("top_scores")
    top = ConstantExpression(signature.top)
    yield "scores_finite", ~FunctionExpression("isfinite", FunctionExpression("list_sum", scores))
    complete = (FunctionExpression("len", scores) == top) & (FunctionExpression("len", items) == top)
    yield "ranking_complete", ~(complete & (FunctionExpression("list_unique", items) == top))
    yield "ranking_in_order", FunctionExpression("list_reverse_sort", scores) != scores
