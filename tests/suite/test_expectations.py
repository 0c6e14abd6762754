"""Each kind of expectation of a suite: bad rows are planted, and DuckDB, pandas and our own SQL count them."""

from __future__ import annotations

import json
from typing import Any

import duckdb
import pandas as pd
import pytest

from pipeline.records import Rule
from pipeline.suite import row_rules
from pipeline.suite.expectations import KINDS, is_row_rule
from pipeline.suite.suite import parse

ROWS = 1000
# 1,000 rows: `age` 0 to 99 ten times over, with 7 NULLs and 5 of 200; `city` one of four with 3 NULLs and 2 unknown;
# `code` four letters, with 4 of another form; `size` finite but for 6; `empty` always NULL but for 2; `twin` unique but
# for 4; `other` like `age` but for some; `part` and `rest` add up to 7 or are NULL; `at` is a reserved word in DuckDB.
DATA = """
    SELECT
        i AS id,
        CASE WHEN i < 7 THEN NULL WHEN i < 12 THEN 200 ELSE i % 100 END::BIGINT AS age,
        CASE WHEN i < 3 THEN NULL WHEN i < 5 THEN 'Atlantis' ELSE ['Oslo', 'Rome', 'Bonn', 'Lima'][i % 4 + 1] END
            AS city,
        CASE WHEN i < 4 THEN 'X' || i ELSE 'AB' || lpad(i::VARCHAR, 4, '0') END AS code,
        CASE WHEN i < 6 THEN 'infinity'::DOUBLE ELSE i / 10 END AS size,
        CASE WHEN i < 2 THEN 1.0 END AS empty,
        CASE WHEN i < 3 THEN 500 ELSE i END AS twin,
        CASE WHEN i IN (1, 20, 21) THEN NULL ELSE i % 100 + if(i % 250 = 0, 5, 0) END::BIGINT AS other,
        CASE WHEN i % 500 = 3 THEN NULL ELSE i % 7 END::BIGINT AS part,
        (7 - i % 7)::BIGINT AS rest,
        DATE '2026-01-01' + (i % 20)::INT AS day,
        TIMESTAMP '2026-01-01' + to_hours(i % 20) AS at
    FROM range(1000) AS r (i)
"""
COLUMNS = ["id", "age", "city", "code", "size", "empty", "twin", "other", "part", "rest", "day", "at"]
AGES = {"column_A": "age", "column_B": "other"}
EITHER = {"ignore_row_if": "either_value_is_missing"}
ANY = {"ignore_row_if": "any_value_is_missing"}
IN_OSLO = {"row_condition": {"type": "comparison", "column": {"name": "city"}, "operator": "==", "parameter": "Oslo"}}
EXPECTED: list[tuple[str, dict[str, Any], int | None, bool]] = [
    ("expect_column_values_to_not_be_null", {"column": "age"}, 7, False),
    ("expect_column_values_to_not_be_null", {"column": "age", "mostly": 0.99}, 7, True),
    ("expect_column_values_to_be_null", {"column": "empty"}, 2, False),
    ("expect_column_values_to_be_finite", {"column": "size"}, 6, False),
    ("expect_column_values_to_be_between", {"column": "age", "min_value": 0, "max_value": 120}, 5, False),
    ("expect_column_values_to_be_between", {"column": "age", "max_value": 98, "strict_max": True}, 25, False),
    ("expect_column_values_to_be_between", {"column": "age", "min_value": 0, "strict_min": True}, 9, False),
    (
        "expect_column_values_to_be_in_set",
        {"column": "city", "value_set": ["Oslo", "Rome", "Bonn", "Lima"]},
        2,
        False,
    ),
    ("expect_column_values_to_not_be_in_set", {"column": "city", "value_set": ["Atlantis"]}, 2, False),
    ("expect_column_values_to_match_regex", {"column": "code", "regex": "^AB[0-9]{4}$"}, 4, False),
    ("expect_column_values_to_not_match_regex", {"column": "code", "regex": "^X"}, 4, False),
    ("expect_column_value_lengths_to_be_between", {"column": "code", "min_value": 6, "max_value": 6}, 4, False),
    ("expect_column_values_to_be_unique", {"column": "twin"}, 4, False),
    ("expect_rows_to_be_distinct", {"column_list": ["age", "city"]}, None, False),
    ("expect_rows_to_be_distinct", {"column_list": ["id", "city"]}, 0, True),
    ("expect_column_to_exist", {"column": "age"}, None, True),
    ("expect_column_to_exist", {"column": "height"}, None, False),
    ("expect_column_min_to_be_between", {"column": "age", "min_value": 0, "max_value": 0}, None, True),
    ("expect_column_max_to_be_between", {"column": "age", "max_value": 120}, None, False),
    ("expect_column_mean_to_be_between", {"column": "id", "min_value": 499, "max_value": 500}, None, True),
    ("expect_column_median_to_be_between", {"column": "id", "min_value": 499.5, "max_value": 499.5}, None, True),
    ("expect_column_sum_to_be_between", {"column": "id", "min_value": 499500, "max_value": 499500}, None, True),
    ("expect_column_stdev_to_be_between", {"column": "id", "min_value": 288.8, "max_value": 288.9}, None, True),
    ("expect_column_unique_value_count_to_be_between", {"column": "city", "min_value": 5, "max_value": 5}, None, True),
    (
        "expect_column_proportion_of_unique_values_to_be_between",
        {"column": "id", "min_value": 1, "max_value": 1},
        None,
        True,
    ),
    (
        "expect_column_distinct_values_to_be_in_set",
        {"column": "city", "value_set": ["Oslo", "Rome", "Bonn", "Lima"]},
        None,
        False,
    ),
    ("expect_column_distinct_values_to_contain_set", {"column": "city", "value_set": ["Oslo"]}, None, True),
    ("expect_column_distinct_values_to_equal_set", {"column": "city", "value_set": ["Oslo"]}, None, False),
    ("expect_column_most_common_value_to_be_in_set", {"column": "part", "value_set": [0, 1]}, None, False),
    (
        "expect_column_proportion_of_non_null_values_to_be_between",
        {"column": "age", "min_value": 0.993, "max_value": 0.993},
        None,
        True,
    ),
    (
        "expect_column_quantile_values_to_be_between",
        {"column": "id", "quantile_ranges": {"quantiles": [0.1, 0.5], "value_ranges": [[90, 110], [None, 500]]}},
        None,
        True,
    ),
    ("expect_column_max_to_be_between", {"column": "at", "max_value": "2026-01-01T18:00:00"}, None, False),
    ("expect_column_min_to_be_between", {"column": "day", "min_value": "2026-01-01"}, None, True),
    ("expect_column_values_to_be_between", {"column": "at", "max_value": "2026-01-01T10:00:00"}, 450, False),
    ("expect_column_values_to_be_between", {"column": "day", "max_value": "2026-01-10"}, 500, False),
    ("expect_column_values_to_be_in_set", {"column": "day", "value_set": ["2026-01-10"]}, 950, False),
    ("expect_column_value_lengths_to_equal", {"column": "code", "value": 6}, 4, False),
    ("expect_column_value_z_scores_to_be_less_than", {"column": "age", "threshold": 2, "double_sided": True}, 5, False),
    ("expect_column_values_to_not_be_outliers", {"column": "age", "method": "std", "multiplier": 2}, 5, False),
    ("expect_column_values_to_match_like_pattern", {"column": "code", "like_pattern": "AB%"}, 4, False),
    (
        "expect_column_values_to_match_like_pattern",
        {"column": "code", "like_pattern": "A!%", "escape": "!"},
        1000,
        False,
    ),
    ("expect_column_values_to_not_match_like_pattern", {"column": "code", "like_pattern": "X%"}, 4, False),
    (
        "expect_column_values_to_match_like_pattern_list",
        {"column": "code", "like_pattern_list": ["AB%", "X1%"]},
        3,
        False,
    ),
    (
        "expect_column_values_to_match_like_pattern_list",
        {"column": "code", "like_pattern_list": ["AB%", "%01%"], "match_on": "all"},
        882,
        False,
    ),
    (
        "expect_column_values_to_not_match_like_pattern_list",
        {"column": "code", "like_pattern_list": ["X1%", "X2"]},
        2,
        False,
    ),
    ("expect_column_values_to_match_regex_list", {"column": "code", "regex_list": ["^AB", "X1"]}, 3, False),
    (
        "expect_column_values_to_match_regex_list",
        {"column": "code", "regex_list": ["^AB", "01"], "match_on": "all"},
        882,
        False,
    ),
    ("expect_column_values_to_not_match_regex_list", {"column": "code", "regex_list": ["^X1", "X2"]}, 2, False),
    ("expect_column_pair_values_a_to_be_greater_than_b", {**AGES, **EITHER, "or_equal": True}, 3, False),
    ("expect_column_pair_values_a_to_be_greater_than_b", {**AGES, **EITHER}, 986, False),
    ("expect_column_pair_values_to_be_equal", AGES, 16, False),
    ("expect_column_pair_values_to_be_equal", {**AGES, **EITHER}, 8, False),
    ("expect_column_pair_values_to_be_equal", {**AGES, "ignore_row_if": "neither"}, 17, False),
    (
        "expect_column_pair_values_to_be_in_set",
        {"column_A": "part", "column_B": "rest", "value_pairs_set": [[0, 7], [1, 6]], **EITHER},
        712,
        False,
    ),
    ("expect_compound_columns_to_be_unique", {"column_list": ["age", "city"], **ANY}, 990, False),
    ("expect_compound_columns_to_be_unique", {"column_list": ["id", "at"]}, 0, True),
    ("expect_multicolumn_sum_to_equal", {"column_list": ["part", "rest"], "sum_total": 7, **ANY}, 0, True),
    ("expect_multicolumn_sum_to_equal", {"column_list": ["part", "rest", "id"], "sum_total": 8, **ANY}, 997, False),
    ("expect_multicolumn_values_to_be_equal", {"column_list": ["age", "other"]}, 16, False),
    (
        "expect_select_column_values_to_be_unique_within_record",
        {"column_list": ["part", "rest", "age"], **ANY},
        16,
        False,
    ),
    ("expect_select_column_values_to_be_unique_within_record", {"column_list": ["part", "rest", "age"]}, 17, False),
    ("expect_column_values_to_be_between", {"column": "age", "max_value": 50, **IN_OSLO}, 121, False),
    (
        "expect_column_values_to_be_between",
        {
            "column": "age",
            "max_value": 50,
            "row_condition": {
                "type": "and",
                "conditions": [
                    {"type": "comparison", "column": {"name": "city"}, "operator": "NOT_IN", "parameter": ["Oslo"]},
                    {"type": "nullity", "column": {"name": "other"}, "is_null": False},
                ],
            },
        },
        374,
        False,
    ),
    (
        "expect_column_values_to_not_be_null",
        {
            "column": "age",
            "mostly": 0.9,
            "row_condition": {
                "type": "or",
                "conditions": [
                    {"type": "comparison", "column": {"name": "day"}, "operator": "<=", "parameter": "2026-01-02"},
                    {"type": "comparison", "column": {"name": "id"}, "operator": ">=", "parameter": 990},
                    {"type": "comparison", "column": {"name": "size"}, "operator": ">", "parameter": 99.0},
                    {"type": "comparison", "column": {"name": "part"}, "operator": "!=", "parameter": 0},
                    {"type": "comparison", "column": {"name": "rest"}, "operator": "<", "parameter": 2},
                    {"type": "comparison", "column": {"name": "city"}, "operator": "IN", "parameter": ["Lima"]},
                ],
            },
        },
        7,
        True,
    ),
    ("expect_column_mean_to_be_between", {"column": "id", "max_value": 499, **IN_OSLO}, None, False),
    ("expect_column_values_to_be_unique", {"column": "age", **IN_OSLO}, 247, False),
    ("expect_table_row_count_to_equal", {"value": 248, **IN_OSLO}, None, True),
    ("expect_table_column_count_to_be_between", {"min_value": 13}, None, False),
    ("expect_table_column_count_to_equal", {"value": 12}, None, True),
    ("expect_table_columns_to_match_ordered_list", {"column_list": COLUMNS}, None, True),
    ("expect_table_columns_to_match_ordered_list", {"column_list": COLUMNS[::-1]}, None, False),
    ("expect_column_type_to_be", {"column": "day", "type_": "DATE"}, None, True),
    ("unexpected_rows_expectation", {"unexpected_rows_query": "SELECT * FROM {batch} WHERE age > 150"}, 5, False),
    (
        "unexpected_rows_expectation",
        {"unexpected_rows_query": "SELECT b.id FROM {batch} a JOIN {batch} b USING (id) WHERE a.age > 150 AND id > 9"},
        2,
        False,
    ),
    ("expect_table_row_count_to_be_between", {"min_value": 1001}, None, False),
    ("expect_table_row_count_to_equal", {"value": 1000}, None, True),
    (
        "expect_table_columns_to_match_set",
        {"column_set": COLUMNS},
        None,
        True,
    ),
    ("expect_column_values_to_be_of_type", {"column": "age", "type_": "BIGINT"}, None, True),
    ("expect_column_values_to_be_of_type", {"column": "age", "type_": "VARCHAR"}, None, False),
    ("expect_column_values_to_be_in_type_list", {"column": "code", "type_list": ["VARCHAR", "DATE"]}, None, True),
]
DUCKDB_ALONE = (
    *("expect_column_values_to_be_of_type", "expect_column_values_to_be_in_type_list", "expect_column_type_to_be"),
    *("expect_column_values_to_match_like_pattern", "expect_column_values_to_not_match_like_pattern"),
    *("expect_column_values_to_match_like_pattern_list", "expect_column_values_to_not_match_like_pattern_list"),
    "unexpected_rows_expectation",
)
"""Kinds that Great Expectations cannot evaluate on pandas, or whose arguments are types of DuckDB."""


def compares_days(rule: Rule) -> bool:
    """Tells whether a rule compares dates: pandas makes times of them, and refuses to compare these with a date."""
    return rule.column == "day" or '"day"' in json.dumps(rule.kwargs.get("row_condition"))


@pytest.fixture(scope="module")
def rules() -> list[Rule]:
    expectations = [
        {"type": kind, "kwargs": kwargs, "meta": {"name": f"rule {number}"}}
        for number, (kind, kwargs, _, _) in enumerate(EXPECTED)
    ]
    return list(parse(json.dumps({"expectations": expectations}), "test"))


@pytest.fixture(scope="module")
def con() -> duckdb.DuckDBPyConnection:
    made = duckdb.connect()
    made.sql(DATA).create_view("planted")
    return made


def test_every_kind_is_tried() -> None:
    assert {kind for kind, _, _, _ in EXPECTED} == set(KINDS)


def test_kinds_on_duckdb_count_the_planted_rows(con: duckdb.DuckDBPyConnection, rules: list[Rule]) -> None:
    from pipeline.quality import gx_engine

    found = gx_engine.evaluate(con, "planted", rules)
    assert [(finding.rule.kwargs, finding.error) for finding in found if finding.error] == []
    expected = [(kwargs, success) for _, kwargs, _, success in EXPECTED]
    assert [(finding.rule.kwargs, finding.success) for finding in found] == expected
    counts = [(finding.rule.kwargs, finding.unexpected) for finding in found]
    planted = [(kwargs, count) for _, kwargs, count, _ in EXPECTED]
    assert [pair for pair, known in zip(counts, planted, strict=True) if known[1] is not None] == [
        known for known in planted if known[1] is not None
    ]


@pytest.mark.slow
def test_kinds_on_duckdb_agree_with_pandas(con: duckdb.DuckDBPyConnection, rules: list[Rule]) -> None:
    from great_expectations.core.batch import Batch
    from great_expectations.execution_engine import PandasExecutionEngine
    from great_expectations.execution_engine.pandas_batch_data import PandasBatchData

    from pipeline.quality import gx_engine

    common = [rule for rule in rules if rule.type not in DUCKDB_ALONE and not compares_days(rule)]
    frame: pd.DataFrame = con.sql("FROM planted").df()
    frame = frame.astype({name: "float64" for name in frame if str(frame[name].dtype) == "Int64"})  # no pandas.NA
    engine = PandasExecutionEngine()
    on_pandas = gx_engine.judge(engine, Batch(data=PandasBatchData(engine, frame)), common)
    on_duckdb = gx_engine.evaluate(con, "planted", common)
    assert [(f.rule.kwargs, f.success, f.unexpected) for f in on_duckdb] == [
        (f.rule.kwargs, f.success, f.unexpected) for f in on_pandas
    ]


def test_row_rules_in_sql_count_the_planted_rows(con: duckdb.DuckDBPyConnection, rules: list[Rule]) -> None:
    counts = row_rules.count(con.view("planted"), rules)
    expected = {f"rule {number}": count for number, (kind, _, count, _) in enumerate(EXPECTED) if is_row_rule(kind)}
    assert {name: count.unexpected for name, count in counts.items()} == expected


def test_results_hold_no_value_of_a_row_unless_asked(con: duckdb.DuckDBPyConnection, rules: list[Rule]) -> None:
    from pipeline.quality import gx_engine

    by_regex = [rule for rule in rules if rule.type == "expect_column_values_to_match_regex"]
    (without,) = gx_engine.evaluate(con, "planted", by_regex)
    (with_samples,) = gx_engine.evaluate(con, "planted", by_regex, samples=True)
    assert without.examples == ()
    assert "X1" in with_samples.examples
