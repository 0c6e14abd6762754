"""The check that counts distinct values which the model cannot tell apart, because float32 rounds them to the same."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from pydantic import TypeAdapter

from pipeline.model.inputs import Input
from pipeline.quality.collisions import Collisions, find
from pipeline.quality.measures import measure
from tests.calling import Cli
from tests.workspace import DAY, Workspace

IDS = list(range(10**9, 10**9 + 2000))


def colliding(values: list[Any]) -> int:
    """Counts by hand the distinct values that have the same float32 as another."""
    rounded = defaultdict(set)
    for value in values:
        rounded[float(np.float32(value))].add(value)
    return sum(len(each) for each in rounded.values() if len(each) > 1)


def judged(values: pa.Array, **how: Any) -> list[Collisions]:
    inputs = {"x": TypeAdapter(Input).validate_python(how)} if how else {}
    with duckdb.connect() as con:
        rows = con.from_arrow(pa.table({"x": values}))
        return list(find(con, rows, measure(rows, ["x"]).features, inputs))


@pytest.mark.parametrize(
    "values",
    [
        pa.array(IDS),
        pa.array([*IDS, None, *IDS[:5]]),
        pa.array(IDS, pa.uint64()),
        pa.array([-value for value in IDS]),
        pa.array([Decimal(value) for value in IDS], pa.decimal128(20, 0)),
        pa.array([float(value) for value in IDS]),
        pa.array([2**24 - 1, 2**24, 2**24 + 1, 2**24 + 2]),
        pa.array([*IDS, *IDS]).dictionary_encode(),
        pa.array([2**30, 2**31, 2**40]),
    ],
    ids=["int64", "NULL", "uint64", "negative", "decimal", "whole doubles", "the limit", "dictionary", "apart"],
)
def test_large_whole_numbers_that_collide_are_counted(values: pa.Array) -> None:
    large = {value for value in values.to_pylist() if value is not None and abs(value) >= 2**24}
    (found,) = judged(values)
    assert (found.feature, found.distinct, found.colliding) == ("x", len(large), colliding(list(large)))


@pytest.mark.parametrize(
    "values",
    [
        pa.array([0, 1, 2**24 - 1, -(2**24) + 1]),
        pa.array([1e9 + 0.25 * index for index in range(100)]),
        pa.array(np.array(IDS, np.float32)),
        pa.array([True, False]),
        pa.array([None, None], pa.int64()),
        pa.array([], pa.int64()),
    ],
    ids=["small", "no whole numbers", "float32 already", "boolean", "NULL", "no row"],
)
def test_numbers_that_float32_keeps_or_that_are_measures_are_not_judged(values: pa.Array) -> None:
    assert judged(values) == []


def test_list_of_integers_is_judged_by_its_elements() -> None:
    (found,) = judged(pa.array([[value, 7] for value in IDS], pa.list_(pa.int64())), kind="list", length=2)
    assert (found.distinct, found.colliding) == (2000, colliding(IDS))


@pytest.mark.parametrize("form", [pa.timestamp("us", "UTC"), pa.timestamp("us"), pa.timestamp("ns"), pa.timestamp("s")])
def test_seconds_far_from_their_origin_are_judged(form: pa.DataType) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    times = [start + timedelta(seconds=index) for index in range(500)]
    values = pa.array(times, pa.timestamp("us", "UTC")).cast(form)
    (found,) = judged(values, kind="timestamp", convert="seconds")
    assert (found.distinct, found.colliding) == (500, colliding([time.timestamp() for time in times]))
    assert "origin" in str(found)
    assert judged(values, kind="timestamp", convert="seconds", origin="2025-12-31T00:00:00Z") == []
    assert judged(values, kind="timestamp", convert="days") == []


def test_run_and_validate_warn_of_collisions_with_count_and_way_out(workspace: Workspace, cli: Cli) -> None:
    rows = {"id": [f"u{index}" for index in range(2000)], "a": IDS, "b": np.arange(2000.0)}
    workspace.day(rows)
    job = workspace.settings.jobs / "toy" / "job.toml"
    quality = job.read_text() + "[quality]\n"
    job.write_text(quality + 'off = ["constant_scores"]\n')
    (check,) = (check for check in workspace.complete().checks if check.name == "float32_collisions:a")
    assert (check.outcome, check.severity.value) == ("noted", "warning")
    shown = cli("validate", "--job", "toy", "--date", DAY).stdout
    for text in (str(check.observed), " ".join(shown.split())):
        assert f"{colliding(IDS):,} of 2,000 distinct values from 16,777,216 on" in text
        assert '{"kind": "integer"}, {"kind": "hash"}' in text
    job.write_text(quality + 'off = ["float32_collisions:a"]\n')
    shown = cli("validate", "--job", "toy", "--date", DAY).stdout
    assert next(line for line in shown.splitlines() if "float32_collisions" in line).startswith("off")
