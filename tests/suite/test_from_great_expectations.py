"""Suites that Great Expectations wrote, read as they are: each of its classes is understood, or named as refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import JobError
from pipeline.records import Severity
from pipeline.suite.expectations import KINDS, UNSUPPORTED
from pipeline.suite.in_words import expected
from pipeline.suite.suite import parse
from tests.suite.test_expectations import EXPECTED

OWN = {"expect_column_values_to_be_finite", "expect_rows_to_be_distinct"}
NAMELESS = "expect_multicolumn_values_to_be_unique"
"""A class that Great Expectations still has, but no longer finds by its name."""
ARGUMENTS: dict[str, dict[str, Any]] = {
    "expect_column_kl_divergence_to_be_less_than": {
        "column": "a",
        "partition_object": {"values": ["x"], "weights": [1.0]},
        "threshold": 0.1,
    },
    "expect_column_values_to_be_dateutil_parseable": {"column": "a"},
    "expect_column_values_to_match_strftime_format": {"column": "a", "strftime_format": "%Y"},
    "expect_column_values_to_be_json_parseable": {"column": "a"},
    "expect_column_values_to_match_json_schema": {"column": "a", "json_schema": {}},
    "expect_column_values_to_be_increasing": {"column": "a"},
    "expect_column_values_to_be_decreasing": {"column": "a"},
    "expect_query_results_to_match_comparison": {
        "base_query": "SELECT 1",
        "comparison_query": "SELECT 1",
        "comparison_data_source_name": "other",
    },
    "expect_table_row_count_to_equal_other_table": {"other_table_name": "other"},
}
"""Arguments of the expectations that a suite cannot use."""


@pytest.fixture(scope="module")
def without_spark() -> None:
    """Imports Great Expectations as Lakescore does, which hides pyspark from it."""
    from pipeline.quality import gx_engine

    assert gx_engine.__name__


@pytest.fixture(scope="module")
def written(without_spark: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """Expectations by their type, as a file context of Great Expectations writes them, one file per class."""
    import great_expectations as gx
    import great_expectations.expectations as classes

    root = tmp_path_factory.mktemp("gx")
    context = gx.get_context(mode="file", project_root_dir=root)
    examples = {kind: kwargs for kind, kwargs, _, _ in reversed(EXPECTED)} | ARGUMENTS
    found: dict[str, list[Any]] = {}
    for name, of in vars(classes).items():
        kind = getattr(of, "expectation_type", None)
        if not kind:
            continue
        made = of(**examples[kind], description=f"What {name} is for", notes=["one", "two"], meta={"owner": "x"})
        suite = context.suites.add(gx.ExpectationSuite(name=name, expectations=[made]))
        stored = json.loads(next(root.rglob(f"{name}.json")).read_text())
        found[kind] = [stored, suite.to_json_dict()]
    return found


def test_each_class_of_great_expectations_is_read_or_named(written: dict[str, list[Any]]) -> None:
    from pipeline.quality import gx_engine

    assert set(written) == (set(KINDS) | set(UNSUPPORTED)) - OWN - {NAMELESS}
    for kind, forms in written.items():
        for form in forms:
            if kind in UNSUPPORTED:
                with pytest.raises(JobError, match=f"{kind} is not supported") as refused:
                    parse(json.dumps(form), "input.json")
                assert refused.value.next_step == UNSUPPORTED[kind]
                continue
            (rule,) = parse(json.dumps(form), "input.json")
            assert rule.type == kind
            assert rule.description.startswith("What ")
            assert rule.description.endswith("one two")
            gx_engine.check([rule], "input.json")
            assert expected(rule)


def test_suite_as_written_keeps_severity_condition_and_limits() -> None:
    text = json.dumps(
        {
            "name": "s",
            "id": "841c3868-9fa8-4c07-b964-291ca2c69f52",
            "meta": {"great_expectations_version": "1.24.1"},
            "notes": None,
            "expectations": [
                {
                    "type": "expect_column_values_to_be_between",
                    "kwargs": {
                        "column": "day",
                        "max_value": "2026-01-01",
                        "result_format": "COMPLETE",
                        "condition_parser": "great_expectations",
                        "row_condition": {
                            "type": "and",
                            "conditions": [
                                {
                                    "type": "comparison",
                                    "column": {"name": "a"},
                                    "operator": "IN",
                                    "parameter": ["x", "y"],
                                },
                                {"type": "nullity", "column": {"name": "b"}, "is_null": False},
                            ],
                        },
                    },
                    "meta": {},
                    "severity": "warning",
                    "description": None,
                    "notes": None,
                },
                {"type": "expect_column_values_to_be_between", "kwargs": {"column": "day", "min_value": "2025-01-01"}},
            ],
        }
    )
    first, second = parse(text, "input.json")
    assert (first.severity, first.name, second.name) == (
        Severity.warning,
        "day_values_to_be_between",
        "day_values_to_be_between_2",
    )
    assert expected(first) == "at most 2026-01-01, where a is one of x, y and b is not NULL"
    assert set(first.kwargs) == {"column", "max_value", "row_condition"}


def test_suite_of_great_expectations_0_18_is_recognised() -> None:
    old = {
        "expectation_suite_name": "s",
        "ge_cloud_id": None,
        "data_asset_type": None,
        "expectations": [{"expectation_type": "expect_column_to_exist", "kwargs": {"column": "a", "auto": True}}],
    }
    with pytest.raises(JobError, match=r"format of Great Expectations 0\.18") as refused:
        parse(json.dumps(old), "input.json")
    assert refused.value.next_step == (
        "change the keys: expectation_suite_name is now name; ge_cloud_id is now id; data_asset_type is gone; "
        "expectation_type is now type; auto is gone"
    )


BETWEEN = "expect_column_values_to_be_between"
ARGUMENT_MISTAKES = [
    ({"max_value": {"$PARAMETER": "most"}}, "`max_value` is a suite parameter"),
    ({"max_value": 5, "row_condition": 'col("a") > 5'}, "row_condition is a text"),
    ({"max_value": 5, "condition_parser": "pandas"}, "condition_parser 'pandas' is not supported"),
    ({"max_value": 5, "row_condition": {"type": "pass_through", "pass_through_filter": "a > 5"}}, "row_condition"),
    ({"max_value": 5, "windows": [{"parameter_name": "x"}]}, "`windows` is not supported"),
    ({"max_value": "soon"}, "a date such as 2026-01-31"),
    ({"min_value": 1, "max_value": "2026-01-01"}, "both be numbers, or both be dates"),
    ({"min_value": "2026-01-02", "max_value": "2026-01-01"}, "min_value 2026-01-02 is more than"),
]


@pytest.mark.parametrize(("kwargs", "message"), ARGUMENT_MISTAKES)
def test_argument_that_cannot_be_evaluated_is_named(kwargs: dict[str, Any], message: str) -> None:
    suite = {"expectations": [{"type": BETWEEN, "kwargs": {"column": "a", **kwargs}}]}
    with pytest.raises(JobError, match=re.escape(message)):
        parse(json.dumps(suite), Path("input.json"))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"type": "ExpectColumnToExist", "kwargs": {"column": "a"}}, "did you mean 'expect_column_to_exist'"),
        ({"type": "expect_column_values_not_null"}, "did you mean 'expect_column_values_to_not_be_null'"),
        ({"type": "expect_column_values_between"}, "did you mean 'expect_column_values_to_be_between'"),
        ({"type": "column_mean_between"}, "did you mean 'expect_column_mean_to_be_between'"),
        ({"type": BETWEEN, "kwargs": {"column": "a", "min_val": 1}}, "did you mean 'min_value'"),
        ({"type": BETWEEN, "meta": {"quarantin": False}}, "did you mean 'quarantine'"),
        ({"type": BETWEEN, "severty": "warning"}, "did you mean 'severity'"),
    ],
)
def test_misspelling_is_told_with_what_was_meant(entry: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError, match=re.escape(message)):
        parse(json.dumps({"expectations": [entry]}), "input.json")
