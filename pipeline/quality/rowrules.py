"""Row rules as SQL: the rows that break each are counted in one pass, or marked with the rules that they break.

The same arithmetic as that which Great Expectations sends to the database, so that the counts are equal: NULL breaks no
rule but those about NULL, and NaN counts as more than any number.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

import duckdb
from duckdb import CaseExpression, ColumnExpression, ConstantExpression, FunctionExpression, StarExpression

from pipeline.quality.kinds import is_row_rule
from pipeline.records import Rule

if TYPE_CHECKING:
    from duckdb import DuckDBPyRelation as Relation
    from duckdb import Expression

BROKEN = "__broken"


@dataclass(frozen=True)
class Count:
    """Of one rule over one day."""

    rows: int
    values: int
    """Rows that have a value; for rules about NULL all rows."""
    unexpected: int

    @property
    def share(self) -> float:
        return self.unexpected / self.values if self.values else 0.0

    def passes(self, mostly: float) -> bool:
        return self.unexpected == 0 or 1 - self.share >= mostly


def condition(rule: Rule) -> Expression:  # noqa: PLR0911 - one line a kind
    """Returns what is true of a row that breaks the rule, and false or NULL of any other."""
    column = ColumnExpression(rule.kwargs["column"])
    match rule.type.removeprefix("expect_column_"):
        case "values_to_not_be_null":
            return column.isnull()
        case "values_to_be_null":
            return column.isnotnull()
        case "values_to_be_finite":
            return ~FunctionExpression("isfinite", column.cast("DOUBLE"))
        case "values_to_be_between":
            return ~_between(column, rule)
        case "value_lengths_to_be_between":
            return ~_between(FunctionExpression("length", column), rule)
        case "values_to_be_in_set":
            return ~column.isin(*map(ConstantExpression, rule.kwargs["value_set"]))
        case "values_to_not_be_in_set":
            return column.isin(*map(ConstantExpression, rule.kwargs["value_set"]))
        case "values_to_match_regex":
            return ~FunctionExpression("regexp_matches", column, ConstantExpression(rule.kwargs["regex"]))
        case "values_to_not_match_regex":
            return FunctionExpression("regexp_matches", column, ConstantExpression(rule.kwargs["regex"]))
    raise ValueError(f"{rule.type} judges no single row")


def count(relation: Relation, rules: Iterable[Rule]) -> dict[str, Count]:
    """Counts the rows that break each row rule, by the rule's name, in one pass."""
    judged = [rule for rule in rules if is_row_rule(rule.type)]
    if not judged:
        return {}
    terms = [FunctionExpression("count_star").alias("rows")]
    for number, rule in enumerate(judged):
        terms.append(FunctionExpression("count_if", condition(rule)).alias(f"broken_{number}"))
        terms.append(FunctionExpression("count", _counted(rule)).alias(f"values_{number}"))
    (row,) = relation.aggregate(terms).fetchall()
    rows, found = row[0], row[1:]
    return {
        rule.name: Count(rows=rows, unexpected=found[2 * number] or 0, values=found[2 * number + 1])
        for number, rule in enumerate(judged)
    }


def mark(relation: Relation, rules: Sequence[Rule]) -> Relation:
    """Adds the column `__broken`: the names of the rules that a row breaks, a list, possibly empty."""
    nothing = ConstantExpression([]).cast("VARCHAR[]")
    lists = [
        CaseExpression(condition(rule), ConstantExpression([rule.name]).cast("VARCHAR[]")).otherwise(nothing)
        for rule in rules
    ]
    joined = reduce(lambda left, right: FunctionExpression("list_concat", left, right), lists)
    return relation.select(StarExpression(), joined.alias(BROKEN))


def _between(value: Expression, rule: Rule) -> Expression:
    low, high = rule.kwargs.get("min_value"), rule.kwargs.get("max_value")
    parts = []
    if low is not None:
        limit = ConstantExpression(low)
        parts.append(value > limit if rule.kwargs.get("strict_min") else value >= limit)
    if high is not None:
        limit = ConstantExpression(high)
        parts.append(value < limit if rule.kwargs.get("strict_max") else value <= limit)
    return reduce(lambda left, right: left & right, parts)


def _counted(rule: Rule) -> duckdb.Expression:
    """Returns what is NULL for the rows that do not count: those without a value, unless the rule is about NULL."""
    if rule.type.endswith(("_to_not_be_null", "_to_be_null")):
        return ConstantExpression(1)
    return ColumnExpression(rule.kwargs["column"])
