"""Each kind of expectation of a suite: bad rows are planted, and DuckDB, pandas and our own SQL count them."""

from __future__ import annotations

import json
from typing import Any

import duckdb
import pandas as pd
import pytest

from pipeline.quality import rowrules
from pipeline.quality.kinds import KINDS, is_row_rule
from pipeline.quality.suite import parse
from pipeline.records import Rule

ROWS = 1000
# 1,000 rows: `age` 0 to 99 ten times over, with 7 NULLs and 5 of 200; `city` one of four with 3 NULLs and 2 unknown;
# `code` four letters, with 4 of another form; `size` finite but for 6; `empty` always NULL but for 2; `twin` unique but
# for 4.
DATA = """
    SELECT
        i AS id,
        CASE WHEN i < 7 THEN NULL WHEN i < 12 THEN 200 ELSE i % 100 END::BIGINT AS age,
        CASE WHEN i < 3 THEN NULL WHEN i < 5 THEN 'Atlantis' ELSE ['Oslo', 'Rome', 'Bonn', 'Lima'][i % 4 + 1] END
            AS city,
        CASE WHEN i < 4 THEN 'X' || i ELSE 'AB' || lpad(i::VARCHAR, 4, '0') END AS code,
        CASE WHEN i < 6 THEN 'infinity'::DOUBLE ELSE i / 10 END AS size,
        CASE WHEN i < 2 THEN 1.0 END AS empty,
        CASE WHEN i < 3 THEN 500 ELSE i END AS twin
    FROM range(1000) AS r (i)
"""
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
    ("expect_table_row_count_to_be_between", {"min_value": 1001}, None, False),
    ("expect_table_row_count_to_equal", {"value": 1000}, None, True),
    (
        "expect_table_columns_to_match_set",
        {"column_set": ["id", "age", "city", "code", "size", "empty", "twin"]},
        None,
        True,
    ),
    ("expect_column_values_to_be_of_type", {"column": "age", "type_": "BIGINT"}, None, True),
    ("expect_column_values_to_be_of_type", {"column": "age", "type_": "VARCHAR"}, None, False),
    ("expect_column_values_to_be_in_type_list", {"column": "code", "type_list": ["VARCHAR", "DATE"]}, None, True),
]
DUCKDB_TYPES = ("expect_column_values_to_be_of_type", "expect_column_values_to_be_in_type_list")
"""Whose arguments are names of DuckDB's types, which pandas does not have."""


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


def test_kinds_on_duckdb_agree_with_pandas(con: duckdb.DuckDBPyConnection, rules: list[Rule]) -> None:
    from great_expectations.core.batch import Batch
    from great_expectations.execution_engine import PandasExecutionEngine
    from great_expectations.execution_engine.pandas_batch_data import PandasBatchData

    from pipeline.quality import gx_engine

    common = [rule for rule in rules if rule.type not in DUCKDB_TYPES]
    frame: pd.DataFrame = con.sql("FROM planted").df()
    engine = PandasExecutionEngine()
    on_pandas = gx_engine.judge(engine, Batch(data=PandasBatchData(engine, frame)), common)
    on_duckdb = gx_engine.evaluate(con, "planted", common)
    assert [(f.rule.kwargs, f.success, f.unexpected) for f in on_duckdb] == [
        (f.rule.kwargs, f.success, f.unexpected) for f in on_pandas
    ]


def test_row_rules_in_sql_count_the_planted_rows(con: duckdb.DuckDBPyConnection, rules: list[Rule]) -> None:
    counts = rowrules.count(con.view("planted"), rules)
    expected = {f"rule {number}": count for number, (kind, _, count, _) in enumerate(EXPECTED) if is_row_rule(kind)}
    assert {name: count.unexpected for name, count in counts.items()} == expected


def test_results_hold_no_value_of_a_row_unless_asked(con: duckdb.DuckDBPyConnection, rules: list[Rule]) -> None:
    from pipeline.quality import gx_engine

    by_regex = [rule for rule in rules if rule.type == "expect_column_values_to_match_regex"]
    (without,) = gx_engine.evaluate(con, "planted", by_regex)
    (with_samples,) = gx_engine.evaluate(con, "planted", by_regex, samples=True)
    assert "X1" not in json.dumps(without.raw.to_json_dict())
    assert "X1" in json.dumps(with_samples.raw.to_json_dict())
