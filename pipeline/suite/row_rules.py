"""Row rules as SQL: counts the rows that break each rule in one pass, or marks each row with the rules it breaks.

The arithmetic is that of the SQL that Great Expectations sends, so that the counts are equal: NULL breaks only rules
about NULL, and NaN is greater than any number.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import combinations
from typing import TYPE_CHECKING, Any

import duckdb
from duckdb import CaseExpression, ColumnExpression, ConstantExpression, FunctionExpression, StarExpression

from pipeline.records import Rule
from pipeline.suite import conditions
from pipeline.suite.expectations import is_row_rule, moment

if TYPE_CHECKING:
    from duckdb import DuckDBPyRelation as Relation
    from duckdb import Expression

BROKEN = "__broken"
DEFAULT_IGNORED = "all_values_are_missing"


@dataclass(frozen=True)
class Count:
    """How many rows one rule was applied to, and how many broke it."""

    rows: int
    values: int
    """Number of rows that have a value; all rows if the rule is about NULL."""
    unexpected: int

    @property
    def share(self) -> float:
        return self.unexpected / self.values if self.values else 0.0

    def passes(self, mostly: float) -> bool:
        return self.unexpected == 0 or 1 - self.share >= mostly


def condition(rule: Rule) -> Expression:
    """Returns an expression that is true for a row that breaks the rule, and false or NULL for any other row."""
    kind, given = rule.type.removeprefix("expect_"), rule.kwargs
    if kind.startswith("column_pair_"):
        broken = _pair(kind, ColumnExpression(given["column_A"]), ColumnExpression(given["column_B"]), given)
    elif "column_list" in given:
        broken = _record(kind, [ColumnExpression(name) for name in given["column_list"]], given)
    else:
        broken = _single(kind, ColumnExpression(given["column"]), given)
    return reduce(operator.and_, [*_restrictions(rule), broken])


def _restrictions(rule: Rule) -> list[Expression]:
    """Returns expressions that are all true for a row that the rule applies to."""
    given = rule.kwargs
    found = [conditions.expression(given["row_condition"])] if given.get("row_condition") else []
    names = given.get("column_list") or ((given["column_A"], given["column_B"]) if "column_A" in given else ())
    match given.get("ignore_row_if", DEFAULT_IGNORED):
        case _ if not names:
            pass
        case "both_values_are_missing" | "all_values_are_missing":
            found.append(reduce(operator.or_, [ColumnExpression(name).isnotnull() for name in names]))
        case "either_value_is_missing" | "any_value_is_missing":
            found += [ColumnExpression(name).isnotnull() for name in names]
    return found


def _single(kind: str, column: Expression, given: Mapping[str, Any]) -> Expression:  # noqa: C901, PLR0911, PLR0912 - one line per kind
    match kind.removeprefix("column_"):
        case "values_to_not_be_null":
            return column.isnull()
        case "values_to_be_null":
            return column.isnotnull()
        case "values_to_be_finite":
            return ~FunctionExpression("isfinite", column.cast("DOUBLE"))
        case "values_to_be_between":
            return ~_between(column, given)
        case "value_lengths_to_be_between":
            return ~_between(FunctionExpression("length", column), given)
        case "value_lengths_to_equal":
            return FunctionExpression("length", column) != ConstantExpression(given["value"])
        case "values_to_be_in_set":
            return ~column.isin(*map(ConstantExpression, given["value_set"]))
        case "values_to_not_be_in_set":
            return column.isin(*map(ConstantExpression, given["value_set"]))
        case "values_to_match_regex":
            return ~_matches(column, given["regex"])
        case "values_to_not_match_regex":
            return _matches(column, given["regex"])
        case "values_to_match_regex_list":
            return ~_joined(given, [_matches(column, regex) for regex in given["regex_list"]])
        case "values_to_not_match_regex_list":
            return reduce(operator.or_, [_matches(column, regex) for regex in given["regex_list"]])
        case "values_to_match_like_pattern":
            return ~_like(column, given["like_pattern"], given)
        case "values_to_not_match_like_pattern":
            return _like(column, given["like_pattern"], given)
        case "values_to_match_like_pattern_list":
            return ~_joined(given, [_like(column, pattern, given) for pattern in given["like_pattern_list"]])
        case "values_to_not_match_like_pattern_list":
            return reduce(operator.or_, [_like(column, pattern, given) for pattern in given["like_pattern_list"]])
    raise ValueError(f"{kind} is not a row rule about one column")


def _pair(kind: str, left: Expression, right: Expression, given: Mapping[str, Any]) -> Expression:
    match kind:
        case "column_pair_values_to_be_equal":
            return ~((left == right) & left.isnotnull() & right.isnotnull())
        case "column_pair_values_a_to_be_greater_than_b" if given.get("or_equal"):
            return ~((left >= right) | (left.isnull() & right.isnull()))
        case "column_pair_values_a_to_be_greater_than_b":
            return ~(left > right)
        case "column_pair_values_to_be_in_set":
            pairs = [
                (left == ConstantExpression(one)) & (right == ConstantExpression(other))
                for one, other in given["value_pairs_set"]
            ]
            return ~reduce(operator.or_, pairs)
    raise ValueError(f"{kind} is not a row rule about two columns")


def _record(kind: str, columns: Sequence[Expression], given: Mapping[str, Any]) -> Expression:
    match kind:
        case "multicolumn_sum_to_equal":
            return reduce(operator.add, columns) != ConstantExpression(given["sum_total"])
        case "multicolumn_values_to_be_equal":
            return ~reduce(operator.and_, [_same(columns[0], other) for other in columns[1:]])
        case "select_column_values_to_be_unique_within_record":
            return reduce(operator.or_, [_equal(one, other) for one, other in combinations(columns, 2)])
    raise ValueError(f"{kind} is not a row rule about several columns")


def _same(one: Expression, other: Expression) -> Expression:
    """Returns an expression that is true or false, never NULL."""
    both = one.isnotnull() & other.isnotnull() & (one == other)
    return (one.isnull() & other.isnull()) | both


def _equal(one: Expression, other: Expression) -> Expression:
    return (one == other) | (one.isnull() & other.isnull())


def _matches(column: Expression, regex: str) -> Expression:
    return FunctionExpression("regexp_matches", column, ConstantExpression(regex))


def _like(column: Expression, pattern: str, given: Mapping[str, Any]) -> Expression:
    if escape := given.get("escape"):
        return FunctionExpression("like_escape", column, ConstantExpression(pattern), ConstantExpression(escape))
    return FunctionExpression("~~", column, ConstantExpression(pattern))


def _joined(given: Mapping[str, Any], found: Sequence[Expression]) -> Expression:
    return reduce(operator.and_ if given.get("match_on") == "all" else operator.or_, found)


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
    """Adds the column `__broken`: a list, possibly empty, of the names of the rules that a row breaks."""
    nothing = ConstantExpression([]).cast("VARCHAR[]")
    lists = [
        CaseExpression(condition(rule), ConstantExpression([rule.name]).cast("VARCHAR[]")).otherwise(nothing)
        for rule in rules
    ]
    joined = FunctionExpression("flatten", FunctionExpression("list_value", *lists))
    return relation.select(StarExpression(), joined.alias(BROKEN))


def _between(value: Expression, given: Mapping[str, Any]) -> Expression:
    low, high = given.get("min_value"), given.get("max_value")
    parts = []
    if low is not None:
        limit = _limit(low)
        parts.append(value > limit if given.get("strict_min") else value >= limit)
    if high is not None:
        limit = _limit(high)
        parts.append(value < limit if given.get("strict_max") else value <= limit)
    return reduce(operator.and_, parts)


def _limit(limit: float | str) -> Expression:
    return ConstantExpression(moment(limit) if isinstance(limit, str) else limit)


def _counted(rule: Rule) -> duckdb.Expression:
    """Returns an expression that is NULL for rows that do not count: those without a value, unless NULL is the rule."""
    about_null = rule.type.endswith(("_to_not_be_null", "_to_be_null"))
    column = None if about_null else rule.column
    value = ConstantExpression(1) if column is None else ColumnExpression(column)
    restrictions = _restrictions(rule)
    return CaseExpression(reduce(operator.and_, restrictions), value) if restrictions else value
