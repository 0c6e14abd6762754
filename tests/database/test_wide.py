"""Few columns and many give the same numbers, by two ways of asking."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from duckdb import ColumnExpression, ConstantExpression, FunctionExpression

from pipeline.database import wide
from pipeline.database.connection import connect
from pipeline.quality import measures

ROWS = 200
COLUMNS = 1100
"""More than the depth to which Python nests calls."""


@pytest.fixture(params=[wide.FEW, 0], ids=["as they are", "as one list"])
def few(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wide, "FEW", request.param)


def numbers(columns: int, rows: int = ROWS) -> dict[str, Any]:
    rng = np.random.default_rng(columns)
    return {f"c{index}": rng.normal(size=rows).astype(np.float32) for index in range(columns)}


@pytest.mark.usefixtures("few")
def test_limits_zeros_and_total_of_a_row_do_not_count_null_and_see_nan() -> None:
    rows = pa.table({
        "a": pa.array([1.0, None, math.nan, math.inf, 0.0, 0.0, None, 1.0, 0.0], pa.float32()),
        "b": pa.array([-2.5, 0.5, 1.0, 1.0, -0.0, None, None, 0.0, math.nan], pa.float32()),
    })  # fmt: skip
    columns = [ColumnExpression("a"), ColumnExpression("b")]
    with connect(threads=1) as con:
        total = FunctionExpression("isfinite", wide.total(columns))
        asked = [wide.all_within(columns, 0, 1), wide.all_zero(columns), total]
        within, zero, finite = zip(*con.from_arrow(rows).select(*asked).fetchall(), strict=True)
    assert [each is False for each in within] == [True, False, True, True, False, False, False, False, True]
    assert [each is True for each in zero] == [False, False, False, False, True, True, True, False, False]
    assert finite[0] is True
    assert finite[2:4] == (False, False)


@pytest.mark.usefixtures("few")
def test_aggregates_of_columns_are_those_of_numpy() -> None:
    values = numbers(5)
    columns = [ColumnExpression(name) for name in values]
    terms = [lambda value: FunctionExpression("min", value), lambda value: FunctionExpression("sum", value)]
    with connect(threads=1) as con:
        whole, found = wide.aggregate(
            con.from_arrow(pa.table(values)), [FunctionExpression("count_star")], columns, terms
        )
    assert whole == (ROWS,)
    for (low, total), column in zip(found, values.values(), strict=True):
        assert low == column.min()
        assert total == pytest.approx(float(column.astype(np.float64).sum()), abs=1e-4)


@pytest.mark.usefixtures("few")
def test_aggregates_of_no_rows_are_none() -> None:
    columns = [ColumnExpression("a"), ColumnExpression("b")]
    terms = [lambda value: FunctionExpression("max", value)]
    with connect(threads=1) as con:
        rows = con.from_arrow(pa.table({"a": [1.0], "b": [2.0]})).filter(ConstantExpression(value=False))
        whole, found = wide.aggregate(rows, [FunctionExpression("count_star")], columns, terms)
    assert (whole, found) == ((0,), [(None,), (None,)])


@pytest.mark.usefixtures("few")
def test_features_are_measured_alike_however_many_there_are() -> None:
    rows = pa.table({
        "number": pa.array([0.0, None, math.nan, math.inf, -3.0], pa.float64()),
        "text": pa.array(["", None, "x", "y", "z"]),
        "whole": pa.array([0, None, 2, 3, 2**40], pa.int64()),
    })  # fmt: skip
    with connect(threads=1) as con:
        found = measures.measure(con.from_arrow(rows), rows.column_names)
    assert (found.rows, found.default_rows) == (5, 1)  # the row of NULLs; the text of the first is no default
    assert [(each.name, each.nulls, each.not_finite, each.low, each.high) for each in found.features] == [
        ("number", 1, 2, -3.0, 0.0),
        ("text", 1, 0, None, None),
        ("whole", 1, 0, 0.0, 2.0**40),
    ]
    scales = [np.log1p([0.0, 3.0]).mean(), None, np.log1p([0, 2, 3, 2.0**40]).mean()]
    assert [each.scale for each in found.features] == [None if each is None else pytest.approx(each) for each in scales]


def test_1100_columns_are_measured_without_deep_nesting() -> None:
    values = numbers(COLUMNS)
    with connect(threads=1) as con:
        found = measures.measure(con.from_arrow(pa.table(values)), list(values))
    assert [feature.low for feature in found.features] == [float(column.min()) for column in values.values()]
    assert found.features[-1].scale == pytest.approx(
        np.log1p(np.abs(values[f"c{COLUMNS - 1}"].astype(np.float64))).mean()
    )


def test_select_by_text_takes_every_name_literally() -> None:
    names = ["a", 'b"c', "x.y", "q?", "$z", "select", "-- c", "ü", "it's", "a, b", "{d}", " "]
    with connect(threads=1) as con:
        rows = con.from_arrow(pa.table({name: [index] for index, name in enumerate(names)}))
        found = wide.select(rows, {name: ColumnExpression(name).cast("VARCHAR") for name in names})
        assert found.columns == names
        assert found.fetchall() == [tuple(map(str, range(len(names))))]
