"""Says in words what an expectation demands, with its limits: for pages, messages and the history."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.records import Rule
from pipeline.suite import conditions

MOST_VALUES = 8
"""Number of values of a set that are named."""

STATISTICS = {
    "expect_column_min_to_be_between": "the smallest value",
    "expect_column_max_to_be_between": "the largest value",
    "expect_column_mean_to_be_between": "the mean",
    "expect_column_median_to_be_between": "the median",
    "expect_column_sum_to_be_between": "the sum",
    "expect_column_stdev_to_be_between": "the standard deviation",
    "expect_column_unique_value_count_to_be_between": "the number of different values",
    "expect_column_proportion_of_unique_values_to_be_between": "the share of different values",
    "expect_column_proportion_of_non_null_values_to_be_between": "the share of values that are not NULL",
}


def expected(rule: Rule) -> str:
    """Returns what a rule demands, such as `between 0 and 120, in at least 99% of the values`."""
    given = rule.kwargs
    kind = rule.type.removeprefix("expect_")
    text = f"{STATISTICS[rule.type]} is {limits(given)}" if rule.type in STATISTICS else _one(kind, given)
    if condition := given.get("row_condition"):
        text += f", where {conditions.in_words(condition)}"
    if (mostly := given.get("mostly", 1)) < 1:
        text += f", in at least {mostly:.10%}".rstrip("0").rstrip(".").removesuffix("%") + "% of the values"
    return text


def limits(given: Mapping[str, Any]) -> str:
    """Returns `between 0 and 120`, `at least 0`, `more than 0 and less than 1`."""
    low, high = given.get("min_value"), given.get("max_value")
    above, below = given.get("strict_min"), given.get("strict_max")
    if low is not None and low == high and not (above or below):
        return f"exactly {number(low)}"
    if low is not None and high is not None and not (above or below):
        return f"between {number(low)} and {number(high)}"
    parts = []
    if low is not None:
        parts.append(f"{'more than' if above else 'at least'} {number(low)}")
    if high is not None:
        parts.append(f"{'less than' if below else 'at most'} {number(high)}")
    return " and ".join(parts)


def number(value: object) -> str:
    """Returns a number with separators of thousands; anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.12g}"


def listed(values: Iterable[object]) -> str:
    found = [str(value) for value in values]
    more = len(found) - MOST_VALUES
    return ", ".join(found[:MOST_VALUES]) + (f" and {more:,} more" if more > 0 else "")


def _one(kind: str, given: Mapping[str, Any]) -> str:
    if kind.startswith(("column_pair_", "multicolumn_", "select_column_", "compound_", "rows_")):
        return _together(kind, given)
    if kind.startswith(("table_", "unexpected_rows_")):
        return _table(kind, given)
    if kind.startswith("column_values_"):
        return _values(kind.removeprefix("column_values_to_"), given)
    return _column(kind.removeprefix("column_"), given)


def _values(kind: str, given: Mapping[str, Any]) -> str:  # noqa: C901, PLR0911, PLR0912 - one line per kind
    """Returns what a rule about each value of a column demands."""
    match kind:
        case "not_be_null":
            return "not NULL"
        case "be_null":
            return "NULL"
        case "be_finite":
            return "neither NaN nor infinite"
        case "be_between":
            return limits(given)
        case "be_in_set":
            return f"one of {listed(given['value_set'])}"
        case "not_be_in_set":
            return f"none of {listed(given['value_set'])}"
        case "match_regex":
            return f"matches {given['regex']}"
        case "not_match_regex":
            return f"does not match {given['regex']}"
        case "match_regex_list":
            return f"matches {given.get('match_on', 'any')} of {listed(given['regex_list'])}"
        case "not_match_regex_list":
            return f"matches none of {listed(given['regex_list'])}"
        case "match_like_pattern":
            return f"is like {given['like_pattern']}"
        case "not_match_like_pattern":
            return f"is not like {given['like_pattern']}"
        case "match_like_pattern_list":
            return f"is like {given.get('match_on', 'any')} of {listed(given['like_pattern_list'])}"
        case "not_match_like_pattern_list":
            return f"is like none of {listed(given['like_pattern_list'])}"
        case "be_unique":
            return "each value once"
        case "not_be_outliers":
            return f"within {number(given['multiplier'])} standard deviations of the mean"
        case "be_of_type":
            return f"of type {given['type_']}"
        case "be_in_type_list":
            return f"of type {' or '.join(given['type_list'])}"
    raise ValueError(f"{kind} has no words")


def _column(kind: str, given: Mapping[str, Any]) -> str:  # noqa: C901, PLR0911 - one line per kind
    """Returns what a rule about a column demands."""
    match kind:
        case "value_lengths_to_be_between":
            return f"{limits(given)} characters"
        case "value_lengths_to_equal":
            return f"exactly {given['value']} characters"
        case "value_z_scores_to_be_less_than":
            size = " in absolute value" if given.get("double_sided", True) else ""
            return f"a z-score below {number(given['threshold'])}{size}"
        case "to_exist":
            place = given.get("column_index")
            return f"there is a column {given['column']}" + ("" if place is None else f" at index {place}")
        case "type_to_be":
            return f"of type {given['type_']}"
        case "most_common_value_to_be_in_set":
            return f"the most common value is one of {listed(given['value_set'])}"
        case "distinct_values_to_be_in_set":
            return f"no value but {listed(given['value_set'])}"
        case "distinct_values_to_equal_set":
            return f"the values that occur are {listed(given['value_set'])}"
        case "distinct_values_to_contain_set":
            return f"each of {listed(given['value_set'])} occurs"
        case "quantile_values_to_be_between":
            ranges = given["quantile_ranges"]
            found = zip(ranges["quantiles"], ranges["value_ranges"], strict=True)
            return "; ".join(f"{share:.6g} quantile {_range(*bounds)}" for share, bounds in found)
    raise ValueError(f"{kind} has no words")


def _together(kind: str, given: Mapping[str, Any]) -> str:  # noqa: PLR0911 - one line per kind
    """Returns what a rule about several columns demands."""
    columns = listed(given.get("column_list", ()))
    match kind:
        case "column_pair_values_to_be_equal":
            return f"{given['column_A']} equals {given['column_B']}"
        case "column_pair_values_a_to_be_greater_than_b":
            return f"{given['column_A']} is {'at least' if given.get('or_equal') else 'more than'} {given['column_B']}"
        case "column_pair_values_to_be_in_set":
            pairs = listed(f"({one}, {other})" for one, other in given["value_pairs_set"])
            return f"({given['column_A']}, {given['column_B']}) is one of {pairs}"
        case "multicolumn_sum_to_equal":
            return f"the sum of {columns} is {number(given['sum_total'])}"
        case "multicolumn_values_to_be_equal":
            return f"{columns} are equal"
        case "select_column_values_to_be_unique_within_record":
            return f"{columns} differ from each other"
        case "compound_columns_to_be_unique" | "rows_to_be_distinct":
            return f"no two rows with the same {columns}"
    raise ValueError(f"{kind} has no words")


def _table(kind: str, given: Mapping[str, Any]) -> str:  # noqa: PLR0911 - one line per kind
    match kind:
        case "table_row_count_to_be_between":
            return f"{limits(given)} rows"
        case "table_row_count_to_equal":
            return f"exactly {number(given['value'])} rows"
        case "table_column_count_to_be_between":
            return f"{limits(given)} columns"
        case "table_column_count_to_equal":
            return f"exactly {number(given['value'])} columns"
        case "table_columns_to_match_set":
            only = "no others" if given.get("exact_match", True) else "maybe others"
            return f"the columns {listed(given['column_set'])}, in any order, and {only}"
        case "table_columns_to_match_ordered_list":
            return f"the columns {listed(given['column_list'])}, in this order"
        case "unexpected_rows_expectation":
            return f"no row from {' '.join(given['unexpected_rows_query'].split())}"
    raise ValueError(f"{kind} has no words")


def _range(low: float | None, high: float | None) -> str:
    return limits({"min_value": low, "max_value": high}) or "of any size"
