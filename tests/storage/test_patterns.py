"""Which paths a pattern matches."""

from __future__ import annotations

import pytest

from pipeline.storage.patterns import matches


@pytest.mark.parametrize(
    ("path", "pattern", "expected"),
    [
        ("in/ds=1/a.parquet", "in/*/*.parquet", True),
        ("in/ds=1/b/a.parquet", "in/*/*.parquet", False),
        ("in/ds=1/b/a.parquet", "in/**/*.parquet", True),
        ("in/a.parquet", "in/**/*.parquet", True),
        ("in/ds=2026-01-01/a.parquet", "in/ds=[0-9][0-9][0-9][0-9]-*/a.*", True),
    ],
)
def test_matches_is_a_glob_over_steps(path: str, pattern: str, expected: bool) -> None:
    assert matches(path.split("/"), pattern.split("/")) is expected
