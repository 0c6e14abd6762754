"""Row conditions: to which rows an expectation applies, in the form in which Great Expectations writes them.

{"type": "comparison", "column": {"name": "country"}, "operator": "==", "parameter": "UK"}
{"type": "nullity", "column": {"name": "income"}, "is_null": false}
{"type": "and", "conditions": [...]}, and likewise "or"
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import reduce
from typing import TYPE_CHECKING, Annotated, Any, Literal

from duckdb import ColumnExpression, ConstantExpression
from pydantic import Field

from pipeline.records import Frozen

if TYPE_CHECKING:
    from duckdb import Expression

Text = Annotated[str, Field(strict=True, min_length=1)]
Scalar = Annotated[bool, Field(strict=True)] | Annotated[int, Field(strict=True)] | Annotated[float, Field(strict=True)]
Parameter = Scalar | Annotated[str, Field(strict=True)]


class Name(Frozen):
    name: Text


class Comparison(Frozen):
    type: Literal["comparison"]
    column: Name
    operator: Literal["==", "!=", "<", "<=", ">", ">="]
    parameter: Parameter


class Membership(Frozen):
    type: Literal["comparison"]
    column: Name
    operator: Literal["IN", "NOT_IN"]
    parameter: Annotated[tuple[Parameter, ...], Field(min_length=1)]


class Nullity(Frozen):
    type: Literal["nullity"]
    column: Name
    is_null: Annotated[bool, Field(strict=True)]


class Several(Frozen):
    type: Literal["and", "or"]
    conditions: Annotated[tuple[Condition, ...], Field(min_length=1)]


Condition = Comparison | Membership | Nullity | Several
Several.model_rebuild()

WORDS = {"==": "is", "!=": "is not", "IN": "is one of", "NOT_IN": "is none of"}


def columns(condition: Mapping[str, Any]) -> Iterator[str]:
    """Yields the columns of a condition."""
    if "conditions" in condition:
        for each in condition["conditions"]:
            yield from columns(each)
    else:
        yield condition["column"]["name"]


def expression(condition: Mapping[str, Any]) -> Expression:
    """Returns a condition as SQL: true for the rows to which the expectation applies, false or NULL for any other."""
    match condition["type"]:
        case "and":
            return reduce(lambda left, right: left & right, map(expression, condition["conditions"]))
        case "or":
            return reduce(lambda left, right: left | right, map(expression, condition["conditions"]))
    column = ColumnExpression(condition["column"]["name"])
    if condition["type"] == "nullity":
        return column.isnull() if condition["is_null"] else column.isnotnull()
    return _compared(column, condition["operator"], condition["parameter"])


def in_words(condition: Mapping[str, Any]) -> str:
    """Returns a condition in words, such as `country is UK and income is not NULL`."""
    if "conditions" in condition:
        return f" {condition['type']} ".join(in_words(each) for each in condition["conditions"])
    column = condition["column"]["name"]
    if condition["type"] == "nullity":
        return f"{column} is {'' if condition['is_null'] else 'not '}NULL"
    parameter, operator = condition["parameter"], condition["operator"]
    value = ", ".join(map(str, parameter)) if operator in ("IN", "NOT_IN") else str(parameter)
    return f"{column} {WORDS.get(operator, operator)} {value}"


def _compared(column: Expression, operator: str, parameter: Any) -> Expression:  # noqa: PLR0911 - one per operator
    match operator:
        case "IN":
            return column.isin(*map(ConstantExpression, parameter))
        case "NOT_IN":
            return column.isnotin(*map(ConstantExpression, parameter))
    value = ConstantExpression(parameter)
    match operator:
        case "==":
            return column == value
        case "!=":
            return column != value
        case "<":
            return column < value
        case "<=":
            return column <= value
        case ">":
            return column > value
        case ">=":
            return column >= value
    raise ValueError(f"{operator} is not an operator of a row condition")
