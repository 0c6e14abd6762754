"""Mistakes in the file of a suite."""

from __future__ import annotations

import pytest

from pipeline.errors import JobError
from pipeline.suite.suite import parse
from tests.quality.test_examine import BETWEEN


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ('{"expectation": []}', "did you mean 'expectations'"),
        ('{"expectations": [{"type": "expect_column_to_exits"}]}', "did you mean 'expect_column_to_exist'"),
        ('{"expectations": [{"type": "expect_column_to_exist", "kwargs": {"colum": "a"}}]}', "did you mean 'column'"),
        ('{"expectations": [{"type": "expect_column_to_exist"}]}', "`column` is missing"),
        (f'{{"expectations": [{{"type": "{BETWEEN}", "kwargs": {{"column": "a"}}}}]}}', "give min_value"),
        (
            '{"expectations": [{"type": "expect_column_to_exist", "kwargs": {"column": "a"}, "severity": "fatal"}]}',
            "severity",
        ),
    ],
)
def test_suite_mistake_is_told_at_once(text: str, message: str) -> None:
    with pytest.raises(JobError, match=message):
        parse(text, "input.json")
