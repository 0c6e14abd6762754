"""A suite that is proposed from a day: the day itself passes it."""

from __future__ import annotations

import sys

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.quality import on_demand
from pipeline.quality.on_demand import _widened
from pipeline.suite.suite import load
from tests.workspace import DAY, Workspace


@pytest.mark.parametrize(
    ("low", "high"),
    [
        *((2013, 2014), (1_000_000, 1_000_010), (-1_000_010, -1_000_000), (2013, 2013), (0, 0), (-5, -5), (0, 1)),
        *((0.1, 0.3), (-0.004, 12_345.6), (1e17, 1e17 + 16), (1 / 3, 1 / 3 + 1e-16), (5e-324, 1e-323)),
        *((-1.7e308, 1.7e308), (1e-300, 1e300)),
    ],
)
def test_widened_limits_hold_the_range_and_are_about_twice_as_wide(low: float, high: float) -> None:
    least, most = _widened(low, high)
    assert -sys.float_info.max <= least <= low <= high <= most <= sys.float_info.max
    assert (least >= 0) or low < 0
    if 1e-300 + 1e-15 * abs(high) < high - low < 1e307:
        assert (high - low) <= most - least <= 2.02 * (high - low)


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
def test_widened_limits_hold_any_range(one: float, other: float) -> None:
    low, high = sorted((one, other))
    least, most = _widened(low, high)
    assert -sys.float_info.max <= least <= low <= high <= most <= sys.float_info.max


def test_suite_init_day_of_unusual_values_passes_its_own_suite(workspace: Workspace) -> None:
    count = 200
    texts = {
        f"text_{number}": [None if row % 14 == 0 else f"{number}-{row % 14}" for row in range(count)]
        for number in range(20)
    }
    columns = {
        "a": pa.array([2013 + row % 2 for row in range(count)], pa.int16()),
        "b": [1_000_000.0 + row % 11 for row in range(count)],
        "large": pa.array([2**62 + row % 3 for row in range(count)], pa.int64()),
        "with_infinity": [float("inf") if row == 7 else float(row) for row in range(count)],
        'qu"oted': [None if row % 13 == 0 else f"{row % 13}" for row in range(count)],
        **texts,
    }
    workspace.day(pa.table({"id": [f"u{row}" for row in range(count)], **columns}))
    ctx = workspace.context()
    on_demand.propose(ctx, DAY)
    rules = {item.name: item for item in load(ctx.job, "input")}
    assert len(rules['qu"oted_known'].kwargs["value_set"]) == 12
    assert not [name for name in rules if name.startswith("text_")], "13 texts beside NULL are too many"
    outcomes = {check.name: check.outcome for check in on_demand.validate(workspace.context(), DAY)}
    assert {name: outcomes[name] for name in rules} == dict.fromkeys(rules, "passed")
