"""Conversion from Arrow to the matrix, and fingerprints, which are stored and so must never change."""

from __future__ import annotations

import math
import struct
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from pipeline.model.inputs import Category, FixedList, Hash, Input, Integer
from pipeline.model.matrix import (
    BLOCK_VALUES,
    CHUNK_ROWS,
    features_of,
    fingerprints,
    is_finite,
    row_fingerprints,
    to_matrix,
)
from pipeline.model.memory_layout import LINE, aligned, by_columns, taken
from tests.workspace import Workspace

INF, NAN = math.inf, math.nan
MASK = 2**64 - 1


def matrix(*rows: Any) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.array(rows, np.float32)


def by_hand(row: list[float]) -> int:
    """Returns the fingerprint, computed with Python integers; splitmix64 from Steele, Lea and Flood (2014)."""
    mixed = len(row)
    for index, value in enumerate(row, start=1):
        state = index * 0x9E3779B97F4A7C15 & MASK
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & MASK
        state = (state ^ state >> 27) * 0x94D049BB133111EB & MASK
        odd = (state ^ state >> 31) | 1
        bits = 0x7FC00000 if math.isnan(value) else struct.unpack("<I", struct.pack("<f", value + 0.0))[0]
        mixed = (mixed ^ bits) * odd & MASK
        mixed ^= mixed >> 29
    return mixed - 2**64 if mixed >= 2**63 else mixed


COLUMNS = {
    "boolean": (pa.array([True, False, None]), [1, 0, NAN]),
    "int8": (pa.array([-128, 127, None], pa.int8()), [-128, 127, NAN]),
    "uint16": (pa.array([0, 65535, None], pa.uint16()), [0, 65535, NAN]),
    "int32": (pa.array([2**24 + 1, -5, None], pa.int32()), [2**24, -5, NAN]),
    "int64": (pa.array([2**62, -1, None], pa.int64()), [2**62, -1, NAN]),
    "uint64": (pa.array([2**64 - 1, 0, None], pa.uint64()), [2**64, 0, NAN]),
    "float16": (pa.array([1.5, -0.25, None], pa.float16()), [1.5, -0.25, NAN]),
    "float32": (pa.array([0.1, 3e38, None], pa.float32()), [np.float32(0.1), np.float32(3e38), NAN]),
    "float64": (pa.array([0.1, 1e300, None], pa.float64()), [np.float32(0.1), INF, NAN]),
    "not finite, or tiny": (pa.array([-INF, NAN, 1e-50]), [-INF, NAN, 0]),
    "no row": (pa.array([], pa.float64()), []),
}


@pytest.mark.parametrize(("values", "expected"), COLUMNS.values(), ids=COLUMNS)
def test_to_matrix_of_any_number_is_float32_with_null_as_nan(values: pa.Array, expected: list[float]) -> None:
    found = to_matrix(pa.record_batch({"x": values}), ["x"])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[:, 0], np.array(expected, np.float32))


@pytest.mark.parametrize(
    ("value", "kind"),
    [(2**60 + 2**36 + 1, pa.int64()), (-(2**60) - 2**36 - 1, pa.int64()), (2**63 + 2**39 + 1, pa.uint64())],
)
@pytest.mark.parametrize("form", ["plain", "dictionary"])
def test_to_matrix_rounds_an_integer_once_whether_or_not_its_batch_has_a_null(
    value: int, kind: pa.DataType, form: str
) -> None:
    """Just above half of a step of float32: as a double it would be exactly half, and go the other way."""
    step = 2 ** (abs(value).bit_length() - 24)
    exact = math.copysign((abs(value) // step + 1) * step, value)
    values = [pa.array([value, 1], kind), pa.array([value, None], kind)]
    found = [
        to_matrix(pa.record_batch({"x": each if form == "plain" else each.dictionary_encode()}), ["x"])
        for each in values
    ]
    np.testing.assert_array_equal(found[0][:, 0], np.array([exact, 1], np.float32))
    np.testing.assert_array_equal(found[1][:, 0], np.array([exact, NAN], np.float32))


def test_to_matrix_takes_the_features_in_their_order() -> None:
    batch = pa.record_batch({"id": ["u"], "b": [2.0], "a": [1], "c": [True]})
    np.testing.assert_array_equal(to_matrix(batch, ["a", "b", "c"]), matrix([1, 2, 1]))
    np.testing.assert_array_equal(to_matrix(batch, ["c", "a"]), matrix([1, 1]))


def test_to_matrix_of_a_slice_takes_its_rows_alone() -> None:
    batch = pa.record_batch({"a": [1, None, 3, 4]}).slice(1, 2)
    np.testing.assert_array_equal(to_matrix(batch, ["a"])[:, 0], matrix(NAN, 3))


@pytest.mark.slow
def test_run_features_of_any_number_score_as_their_doubles_do(workspace: Workspace) -> None:
    """Covers Parquet, DuckDB and the model."""
    numbers = {
        "decimal": pa.array([Decimal("0.10"), Decimal("-99999999.99"), Decimal(7)], pa.decimal128(10, 2)),
        "large decimal": pa.array([Decimal(10) ** 30, Decimal(-1), Decimal(0)], pa.decimal128(38, 0)),
        "boolean": pa.array([True, False, True]),
        "int8": pa.array([1, -2, 3], pa.int8()),
        "uint64": pa.array([2**63, 1, 0], pa.uint64()),
        "float16": pa.array([1.5, 2.5, -0.5], pa.float16()),
        "float32": pa.array([0.1, 0.2, 1e-30], pa.float32()),
        "dictionary": pa.array([0.5, 1.5, 0.5]).dictionary_encode(),
    }
    workspace.model(features=tuple(numbers), version="v2")
    workspace.job(features="")
    doubles = {name: pa.array([float(value) for value in values.to_pylist()]) for name, values in numbers.items()}
    scores = []
    for ds, columns in (("2026-01-01", numbers), ("2026-01-02", doubles)):
        workspace.day(pa.table({"id": ["x", "y", "z"], **columns}), ds)
        workspace.run(ds)
        query = f"SELECT id, fingerprint, prob_class_0 FROM predictions WHERE ds = '{ds}' ORDER BY id"
        scores.append([tuple(row.values()) for row in workspace.stored(query)])
    matrix = np.array([values.to_pylist() for values in doubles.values()], np.float32).T  # (3, features)
    assert [fingerprint for _, fingerprint, _ in scores[0]] == fingerprints(matrix).tolist()
    assert scores[0] == scores[1]


def test_fingerprint_is_the_one_that_lakes_have_stored() -> None:
    rows = matrix([0, 0], [1, 2], [2, 1], [NAN, INF])
    stored = [6555166086067651539, -4839939403453299644, 3579373940429262520, -578855191297773302]
    assert fingerprints(rows).tolist() == stored
    assert [by_hand(row) for row in rows.tolist()] == stored
    assert fingerprints(rows).dtype == np.int64


MIXED = pa.record_batch(
    {
        "a": pa.array([0.5, None, -0.0]),
        "kind": ["x", None, "y"],
        "many": pa.array([[1.0, 2.0, 3.0], None, [4.0, None, 6.0]], pa.list_(pa.float32())),
        "n": pa.array([2**60 + 1, None, -1], pa.int64()),
        "h": ["p", "q", None],
    }
)
INPUTS: dict[str, Input] = {
    "kind": Category(vocabulary=("x", "y"), encode="one_hot"),
    "many": FixedList(length=3, null=0.0),
    "n": Integer(),
    "h": Hash(buckets=10, algorithm="crc32"),
}


def test_fingerprints_of_wide_rows_and_of_declared_inputs_are_those_that_lakes_have_stored() -> None:
    columns = 300
    wide = (np.arange(3)[:, None] * columns + np.arange(columns)).astype(np.float32) / np.float32(7)
    stored = [-7079020804470795893, -3330231114596821592, -8953843799831675054]
    assert fingerprints(wide).tolist() == stored
    batch = pa.record_batch({f"f{index}": wide[:, index] for index in range(columns)})
    assert fingerprints(to_matrix(batch, batch.schema.names)).tolist() == stored
    for left_out, expected in (
        (None, [-3898619400269590640, -6908882944588712175, -3361296887086765542]),
        ("many", [-1710475208672913614, -624221639241450803, -7415596428274346307]),
    ):
        features = [name for name in (*INPUTS, "a") if name != left_out]
        found = row_fingerprints(MIXED, to_matrix(MIXED, features, INPUTS), features, INPUTS)
        assert found.tolist() == expected


def test_to_matrix_lies_column_by_column_and_with_lists_row_by_row() -> None:
    rng = np.random.default_rng(0)
    columns = {f"f{index}": rng.normal(size=1000).astype(np.float32) for index in range(5)}
    found = to_matrix(pa.record_batch(columns), list(columns))
    assert by_columns(found)
    assert found.strides == (4, 4 * 1000 + 64)  # no two columns 2^n bytes apart
    np.testing.assert_array_equal(found, np.column_stack(list(columns.values())))
    assert by_columns(to_matrix(MIXED, ["a", "n"], INPUTS))
    assert not by_columns(to_matrix(MIXED, ["a", "many"], INPUTS))


@pytest.mark.parametrize("odd", [None, NAN, INF, -INF, -0.0, 3e38])
@pytest.mark.parametrize("rows", [0, 3, CHUNK_ROWS + 5])
def test_features_of_one_pass_are_those_of_several(rows: int, odd: float | None) -> None:
    """In several blocks of columns, of which one has a value that is not like the others."""
    columns = 2 * BLOCK_VALUES // CHUNK_ROWS
    values = np.random.default_rng(0).normal(size=(columns, rows)).astype(np.float32)
    if odd is not None:
        values[1, -2:] = odd
    batch = pa.record_batch({f"f{index}": column for index, column in enumerate(values)})
    found = features_of(batch, batch.schema.names, {})
    np.testing.assert_array_equal(found.matrix, values.T)
    np.testing.assert_array_equal(np.signbit(found.matrix), np.signbit(values.T))
    np.testing.assert_array_equal(found.fingerprints, fingerprints(values.T + np.float32(0)))
    assert found.finite == (not rows or odd is None or abs(odd) < INF)


def test_features_of_declared_inputs_are_finite_or_not() -> None:
    features = [*INPUTS, "a"]
    found = features_of(MIXED, features, INPUTS)
    expected = to_matrix(MIXED, features, INPUTS)
    np.testing.assert_array_equal(found.matrix, expected)
    np.testing.assert_array_equal(found.fingerprints, row_fingerprints(MIXED, expected, features, INPUTS))
    assert not found.finite
    assert features_of(MIXED.slice(2), ["a", "n"], INPUTS).finite


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_is_finite_looks_at_every_value(value: float) -> None:
    rows = matrix([1, 2], [-3, 3e38])
    assert is_finite(rows)
    for place in np.ndindex(2, 2):
        other = rows.copy()
        other[place] = value
        assert not is_finite(other)


def test_aligned_begins_with_a_line_of_the_cache() -> None:
    found = [aligned((size, 3), np.float32) for size in range(1, 60)]
    assert [array.ctypes.data % LINE for array in found] == [0] * len(found)
    assert [array.shape for array in found] == [(size, 3) for size in range(1, 60)]


@pytest.mark.parametrize("order", ["C", "F"])
def test_taken_rows_keep_the_layout(order: Any) -> None:
    rows = np.asarray(np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32), order=order)
    mask = rows[:, 0] > 0
    found = taken(rows, np.flatnonzero(mask))
    np.testing.assert_array_equal(found, rows[mask])
    assert by_columns(found) == (order == "F")


@given(arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.floats(width=32)))
def test_fingerprint_of_any_row_is_that_computed_by_hand(
    rows: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
) -> None:
    assert fingerprints(rows).tolist() == [by_hand(row) for row in rows.tolist()]


def test_fingerprint_does_not_depend_on_the_batch() -> None:
    columns = BLOCK_VALUES // CHUNK_ROWS + 2
    rows = np.random.default_rng(0).normal(size=(2 * CHUNK_ROWS + 5, columns)).astype(np.float32)
    whole = fingerprints(rows)
    one_by_one = [fingerprints(rows[index : index + 1])[0] for index in range(0, len(rows), 97)]
    np.testing.assert_array_equal(whole[::97], one_by_one)
    np.testing.assert_array_equal(fingerprints(rows[::-1]), whole[::-1])
    np.testing.assert_array_equal(fingerprints(np.asfortranarray(rows)), whole)
    np.testing.assert_array_equal(fingerprints(rows[:, :5], np.asfortranarray(rows[:, 5:])), whole)


def test_fingerprint_leaves_the_matrix_alone() -> None:
    rows = matrix([-0.0, NAN], [1, 2])
    before = rows.tobytes()
    fingerprints(rows)
    assert rows.tobytes() == before


def test_fingerprint_of_equal_values_is_equal() -> None:
    other_nan = np.frombuffer(struct.pack("<I", 0xFFC12345), np.float32)[0]
    assert np.isnan(other_nan)
    assert len(set(fingerprints(matrix([0.0, NAN], [-0.0, NAN], [0.0, -NAN], [0.0, other_nan])).tolist())) == 1


def test_fingerprint_of_other_rows_is_another() -> None:
    rows = [[1, NAN, 2], [1, 2, NAN], [NAN, 1, 2], [1, 0, 2], [2, 0, 1], [1, INF, 2], [1, -INF, 2], [0, 0, 0]]
    narrow = fingerprints(matrix([0, 0])).tolist()
    assert len({*fingerprints(matrix(*rows)).tolist(), *narrow}) == len(rows) + 1


def test_fingerprint_of_many_similar_rows_has_no_collision() -> None:
    grid = np.stack(np.meshgrid(np.arange(500), np.arange(500)), axis=-1).reshape(-1, 2)  # (250000, 2)
    assert len(np.unique(fingerprints(grid.astype(np.float32)))) == len(grid)
    tiny = np.nextafter(np.float32(1), np.float32(2)) - np.float32(1)
    close = (1 + tiny * np.arange(50_000)).astype(np.float32).reshape(-1, 1)  # neighbours of 1 in float32
    assert len(np.unique(fingerprints(close))) == len(close)
