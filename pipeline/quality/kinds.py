"""The kinds of expectation that a suite may hold: those whose counts a test holds equal on DuckDB and on pandas.

A kind is its name in Great Expectations and its arguments. `row` marks those that judge each row by itself: such a rule
can be told in SQL too, so that its rows can be quarantined.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, model_validator

from pipeline.records import Frozen

Share = Annotated[float, Field(ge=0, le=1)]
Number = Annotated[int, Field(strict=True)] | Annotated[float, Field(strict=True)]
Text = Annotated[str, Field(strict=True, min_length=1)]
Value = Number | Annotated[str, Field(strict=True)]


class Table(Frozen):
    """Of all rows at once."""


class Column(Frozen):
    column: Text


class Row(Column):
    mostly: Share = 1.0
    """The share of the rows with a value that must pass."""


class _Limits(Frozen):
    @model_validator(mode="after")
    def _some_limit(self) -> _Limits:
        low, high = getattr(self, "min_value", None), getattr(self, "max_value", None)
        if low is None and high is None:
            raise ValueError("give min_value, max_value or both")
        if low is not None and high is not None and low > high:
            raise ValueError(f"min_value {low} is more than max_value {high}")
        return self


class Between(Row, _Limits):
    min_value: Number | None = None
    max_value: Number | None = None
    strict_min: bool = False
    strict_max: bool = False


class Lengths(Row, _Limits):
    min_value: Annotated[int, Field(strict=True, ge=0)] | None = None
    max_value: Annotated[int, Field(strict=True, ge=0)] | None = None


class InSet(Row):
    value_set: Annotated[tuple[Value, ...], Field(min_length=1)]


class Regex(Row):
    regex: Text


class Aggregate(Column, _Limits):
    min_value: Number | None = None
    max_value: Number | None = None
    strict_min: bool = False
    strict_max: bool = False


class RowCount(Table, _Limits):
    min_value: Annotated[int, Field(strict=True, ge=0)] | None = None
    max_value: Annotated[int, Field(strict=True, ge=0)] | None = None


class Exactly(Table):
    value: Annotated[int, Field(strict=True, ge=0)]


class OfType(Column):
    type_: Text
    """A DuckDB type, such as BIGINT."""


class OfTypes(Column):
    type_list: Annotated[tuple[Text, ...], Field(min_length=1)]


class Columns(Table):
    column_set: Annotated[tuple[Text, ...], Field(min_length=1)]
    exact_match: bool = True


class ColumnList(Table):
    column_list: Annotated[tuple[Text, ...], Field(min_length=1)]


class ValueSet(Column):
    value_set: Annotated[tuple[Value, ...], Field(min_length=1)]


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
    "expect_column_value_lengths_to_be_between": Kind(Lengths, row=True),
    "expect_column_values_to_be_unique": Kind(Row),
    "expect_rows_to_be_distinct": Kind(ColumnList),
    "expect_column_to_exist": Kind(Column),
    "expect_column_values_to_be_of_type": Kind(OfType),
    "expect_column_values_to_be_in_type_list": Kind(OfTypes),
    "expect_column_min_to_be_between": Kind(Aggregate),
    "expect_column_max_to_be_between": Kind(Aggregate),
    "expect_column_mean_to_be_between": Kind(Aggregate),
    "expect_column_median_to_be_between": Kind(Aggregate),
    "expect_column_sum_to_be_between": Kind(Aggregate),
    "expect_column_stdev_to_be_between": Kind(Aggregate),
    "expect_column_unique_value_count_to_be_between": Kind(Aggregate),
    "expect_column_proportion_of_unique_values_to_be_between": Kind(Aggregate),
    "expect_column_distinct_values_to_be_in_set": Kind(ValueSet),
    "expect_column_distinct_values_to_contain_set": Kind(ValueSet),
    "expect_table_row_count_to_be_between": Kind(RowCount),
    "expect_table_row_count_to_equal": Kind(Exactly),
    "expect_table_columns_to_match_set": Kind(Columns),
}


def is_row_rule(kind: str) -> bool:
    return kind in KINDS and KINDS[kind].row
