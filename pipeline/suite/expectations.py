"""The kinds of expectation that a suite may use: a test checks that their counts are equal on DuckDB and on pandas.

A kind is a name in Great Expectations and its arguments. `row` marks kinds that judge each row by itself: such a rule
can also be written in SQL, so that the rows that break it can be quarantined.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from pipeline.records import Frozen
from pipeline.suite import conditions
from pipeline.suite.conditions import Condition, Text


def moment(text: str) -> date | datetime:
    """Returns the day or time that a limit says, as Great Expectations writes it. Raises ValueError."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        return datetime.fromisoformat(text)


def _limit(value: float | str) -> float | str:
    try:
        moment(value) if isinstance(value, str) else value
    except ValueError:
        raise ValueError("must be a number, a date such as 2026-01-31, or a time such as 2026-01-31T12:00:00") from None
    return value


def _whole(value: Any) -> Any:
    """Returns 6 for 6.0, as Great Expectations writes some counts."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Share = Annotated[float, Field(ge=0, le=1)]
Number = Annotated[int, Field(strict=True)] | Annotated[float, Field(strict=True)]
Limit = Annotated[Number | Annotated[str, Field(strict=True)], AfterValidator(_limit)]
Count = Annotated[int, Field(strict=True, ge=0), BeforeValidator(_whole)]
Value = Number | Annotated[str, Field(strict=True)]
Values = Annotated[tuple[Value, ...], Field(min_length=1)]
Texts = Annotated[tuple[Text, ...], Field(min_length=1)]


class Plain(Frozen):
    """The arguments of an expectation about all rows together."""


class Table(Plain):
    row_condition: Condition | None = None
    """To which rows it applies; all if None."""


class Column(Table):
    column: Text


class Row(Column):
    mostly: Share = 1.0
    """Share of the rows with a value that must at least pass, 0 to 1."""


class _Limits(Frozen):
    @model_validator(mode="after")
    def _some_limit(self) -> _Limits:
        low, high = getattr(self, "min_value", None), getattr(self, "max_value", None)
        if low is None and high is None:
            raise ValueError("give min_value, max_value or both")
        if low is None or high is None:
            return self
        if isinstance(low, str) != isinstance(high, str):
            raise ValueError("min_value and max_value must both be numbers, or both be dates or times")
        if _size(low) > _size(high):
            raise ValueError(f"min_value {low} is more than max_value {high}")
        return self


def _size(limit: float | str) -> float:
    if not isinstance(limit, str):
        return limit
    found = moment(limit)
    at = found if isinstance(found, datetime) else datetime(found.year, found.month, found.day, tzinfo=UTC)
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


class Between(Row, _Limits):
    min_value: Limit | None = None
    max_value: Limit | None = None
    strict_min: bool = False
    strict_max: bool = False


class Lengths(Row, _Limits):
    min_value: Count | None = None
    max_value: Count | None = None


class Length(Row):
    value: Count


class InSet(Row):
    value_set: Values


class Regex(Row):
    regex: Text


class Regexes(Row):
    regex_list: Texts
    match_on: Literal["any", "all"] = "any"


class NotRegexes(Row):
    regex_list: Texts


class Like(Row):
    like_pattern: Text
    escape: Annotated[str, Field(strict=True, min_length=1, max_length=1)] | None = None


class NotLikes(Row):
    like_pattern_list: Texts
    escape: Annotated[str, Field(strict=True, min_length=1, max_length=1)] | None = None


class Likes(NotLikes):
    match_on: Literal["any", "all"] = "any"


class ZScores(Row):
    threshold: Number
    double_sided: bool = True


class Outliers(Row):
    method: Literal["std"]
    """Great Expectations has no SQL for `iqr` that DuckDB understands."""
    multiplier: Number


class Pair(Table):
    column_A: Text  # noqa: N815 - the names of Great Expectations
    column_B: Text  # noqa: N815
    mostly: Share = 1.0
    ignore_row_if: Literal["both_values_are_missing", "either_value_is_missing", "neither"] = "both_values_are_missing"


class PairGreater(Pair):
    or_equal: bool | None = None


class PairInSet(Pair):
    value_pairs_set: Annotated[tuple[tuple[Value, Value], ...], Field(min_length=1)]


class Record(Table):
    """Several columns of a row."""

    column_list: Annotated[tuple[Text, ...], Field(min_length=2)]
    mostly: Share = 1.0
    ignore_row_if: Literal["all_values_are_missing", "any_value_is_missing", "never"] = "all_values_are_missing"


class Sum(Record):
    sum_total: Number


class Aggregate(Column, _Limits):
    min_value: Limit | None = None
    max_value: Limit | None = None
    strict_min: bool = False
    strict_max: bool = False


class Figure(Column, _Limits):
    """A number even if the values are dates."""

    min_value: Number | None = None
    max_value: Number | None = None
    strict_min: bool = False
    strict_max: bool = False


class QuantileRanges(Frozen):
    quantiles: Annotated[tuple[Share, ...], Field(min_length=1)]
    value_ranges: Annotated[tuple[tuple[Number | None, Number | None], ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _a_range_for_each(self) -> QuantileRanges:
        if len(self.quantiles) != len(self.value_ranges):
            raise ValueError(f"{len(self.quantiles)} quantiles have {len(self.value_ranges)} value_ranges")
        return self


class Quantiles(Column):
    quantile_ranges: QuantileRanges


class RowCount(Table, _Limits):
    min_value: Count | None = None
    max_value: Count | None = None
    strict_min: bool = False
    strict_max: bool = False


class Exactly(Table):
    value: Count


class ColumnCount(Plain, _Limits):
    min_value: Count | None = None
    max_value: Count | None = None


class ColumnsExactly(Plain):
    value: Count


class Exists(Plain):
    column: Text
    column_index: Count | None = None


class OfType(Row):
    type_: Text
    """A DuckDB type, such as BIGINT."""


class OfTypes(Row):
    type_list: Texts


class TypeToBe(Plain):
    column: Text
    type_: Text


class Columns(Plain):
    column_set: Texts
    exact_match: bool = True


class OrderedColumns(Plain):
    column_list: Texts


class ColumnList(Plain):
    column_list: Texts


class ValueSet(Column):
    value_set: Values


class MostCommon(ValueSet):
    ties_okay: bool | None = None


class Query(Plain):
    unexpected_rows_query: Text
    """One SELECT over `{batch}`, the rows that are validated; each row that it returns is unexpected."""


@dataclass(frozen=True)
class Kind:
    arguments: type[Frozen]
    row: bool = False


KINDS = {
    "expect_column_values_to_not_be_null": Kind(Row, row=True),
    "expect_column_values_to_be_null": Kind(Row, row=True),
    "expect_column_values_to_be_finite": Kind(Row, row=True),
    "expect_column_values_to_be_between": Kind(Between, row=True),
    "expect_column_values_to_be_in_set": Kind(InSet, row=True),
    "expect_column_values_to_not_be_in_set": Kind(InSet, row=True),
    "expect_column_values_to_match_regex": Kind(Regex, row=True),
    "expect_column_values_to_not_match_regex": Kind(Regex, row=True),
    "expect_column_values_to_match_regex_list": Kind(Regexes, row=True),
    "expect_column_values_to_not_match_regex_list": Kind(NotRegexes, row=True),
    "expect_column_values_to_match_like_pattern": Kind(Like, row=True),
    "expect_column_values_to_not_match_like_pattern": Kind(Like, row=True),
    "expect_column_values_to_match_like_pattern_list": Kind(Likes, row=True),
    "expect_column_values_to_not_match_like_pattern_list": Kind(NotLikes, row=True),
    "expect_column_value_lengths_to_be_between": Kind(Lengths, row=True),
    "expect_column_value_lengths_to_equal": Kind(Length, row=True),
    "expect_column_pair_values_to_be_equal": Kind(Pair, row=True),
    "expect_column_pair_values_a_to_be_greater_than_b": Kind(PairGreater, row=True),
    "expect_column_pair_values_to_be_in_set": Kind(PairInSet, row=True),
    "expect_multicolumn_sum_to_equal": Kind(Sum, row=True),
    "expect_multicolumn_values_to_be_equal": Kind(Record, row=True),
    "expect_select_column_values_to_be_unique_within_record": Kind(Record, row=True),
    "expect_column_values_to_be_unique": Kind(Row),
    "expect_compound_columns_to_be_unique": Kind(Record),
    "expect_rows_to_be_distinct": Kind(ColumnList),
    "expect_column_value_z_scores_to_be_less_than": Kind(ZScores),
    "expect_column_values_to_not_be_outliers": Kind(Outliers),
    "expect_column_to_exist": Kind(Exists),
    "expect_column_values_to_be_of_type": Kind(OfType),
    "expect_column_values_to_be_in_type_list": Kind(OfTypes),
    "expect_column_type_to_be": Kind(TypeToBe),
    "expect_column_min_to_be_between": Kind(Aggregate),
    "expect_column_max_to_be_between": Kind(Aggregate),
    "expect_column_mean_to_be_between": Kind(Figure),
    "expect_column_median_to_be_between": Kind(Figure),
    "expect_column_sum_to_be_between": Kind(Figure),
    "expect_column_stdev_to_be_between": Kind(Figure),
    "expect_column_quantile_values_to_be_between": Kind(Quantiles),
    "expect_column_unique_value_count_to_be_between": Kind(Figure),
    "expect_column_proportion_of_unique_values_to_be_between": Kind(Figure),
    "expect_column_proportion_of_non_null_values_to_be_between": Kind(Figure),
    "expect_column_most_common_value_to_be_in_set": Kind(MostCommon),
    "expect_column_distinct_values_to_be_in_set": Kind(ValueSet),
    "expect_column_distinct_values_to_equal_set": Kind(ValueSet),
    "expect_column_distinct_values_to_contain_set": Kind(ValueSet),
    "expect_table_row_count_to_be_between": Kind(RowCount),
    "expect_table_row_count_to_equal": Kind(Exactly),
    "expect_table_column_count_to_be_between": Kind(ColumnCount),
    "expect_table_column_count_to_equal": Kind(ColumnsExactly),
    "expect_table_columns_to_match_set": Kind(Columns),
    "expect_table_columns_to_match_ordered_list": Kind(OrderedColumns),
    "unexpected_rows_expectation": Kind(Query),
}

IN_ORDER = "the rows of a table have no order; compare neighbours by a window function in unexpected_rows_expectation"
IN_PYTHON = "Great Expectations evaluates it in Python, and Lakescore pushes all work down to SQL"
UNSUPPORTED = {
    "expect_column_kl_divergence_to_be_less_than": "[drift] in job.toml compares distributions",
    "expect_column_values_to_be_dateutil_parseable": f"{IN_PYTHON}: use expect_column_values_to_match_regex",
    "expect_column_values_to_match_strftime_format": f"{IN_PYTHON}: use expect_column_values_to_match_regex",
    "expect_column_values_to_be_json_parseable": f"{IN_PYTHON}: use json_valid() in unexpected_rows_expectation",
    "expect_column_values_to_match_json_schema": f"{IN_PYTHON}: use JSON functions in unexpected_rows_expectation",
    "expect_column_values_to_be_increasing": IN_ORDER,
    "expect_column_values_to_be_decreasing": IN_ORDER,
    "expect_multicolumn_values_to_be_unique": "now expect_select_column_values_to_be_unique_within_record",
    "expect_query_results_to_match_comparison": "it reads a second data source, and a validation reads its input only",
    "expect_table_row_count_to_equal_other_table": "it reads another table, and a validation reads its input only",
}
"""Expectations of Great Expectations that a suite cannot use, and what to do instead."""


def columns_of(kwargs: Mapping[str, Any]) -> list[str]:
    """Returns the columns that an expectation with these arguments reads, each once."""
    found = [kwargs[name] for name in ("column", "column_A", "column_B") if kwargs.get(name)]
    condition = kwargs.get("row_condition")
    of_condition = conditions.columns(condition) if condition else ()
    return list(dict.fromkeys([*found, *kwargs.get("column_list", ()), *of_condition]))


def is_row_rule(kind: str) -> bool:
    return kind in KINDS and KINDS[kind].row
