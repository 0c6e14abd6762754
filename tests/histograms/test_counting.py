"""Counts of a column equal those of plain numpy over all values at once."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.histograms.counting import LEVELS, WHOLE, Counting, Counts, Spec, edges_of, merged
from pipeline.histograms.table import from_table, to_table
from pipeline.records import now

EDGES = (-1.0, 0.0, 0.5, 2.0)
VALUES = st.lists(st.floats(width=32) | st.sampled_from([-1.0, 0.0, 0.5, 2.0, -0.0]), max_size=60)


def counted(values: NDArray[np.float32], edges: tuple[float, ...] = EDGES, nulls: int = 0) -> Counts:
    counts = Counts(Spec("feature", "x", edges))
    counts.add_numbers(values, nulls)
    return counts


@given(VALUES)
def test_counts_equal_a_plain_histogram(values: list[float]) -> None:
    column = np.array(values, np.float32)
    counts = counted(column)
    present = column[~np.isnan(column)]
    expected = [int(((present >= low) & (present < high)).sum()) for low, high in pairwise(EDGES)]
    assert counts.bins.tolist() == [int((present < EDGES[0]).sum()), *expected, int((present >= EDGES[-1]).sum())]
    finite = column[np.isfinite(column)]
    assert (counts.rows, counts.nans, counts.infinite, counts.finite) == (
        len(column),
        int(np.isnan(column).sum()),
        int(np.isinf(column).sum()),
        len(finite),
    )


def test_moments_equal_those_of_numpy_however_the_rows_are_cut() -> None:
    rng = np.random.default_rng(0)
    column = (rng.normal(size=10_000) * 3 + 1_000).astype(np.float32)
    whole, parts = counted(column), Counts(Spec("feature", "x", EDGES))
    for cut in np.split(column, [0, 1, 17, 5_000]):
        parts.add(counted(cut))
    for counts in (whole, parts):
        assert counts.mean == pytest.approx(column.astype(np.float64).mean(), rel=1e-9)
        assert counts.deviation == pytest.approx(column.astype(np.float64).std(ddof=1), rel=1e-6)
        assert (counts.low, counts.high) == (column.min(), column.max())
    assert whole.bins.tolist() == parts.bins.tolist()


def test_nulls_and_nans_are_told_apart_also_in_slices() -> None:
    rows = pa.record_batch({"x": pa.array([1.0, None, float("nan"), None]), "country": ["a", "a", "a", "b"]})
    counting = Counting([Spec("feature", "x", EDGES)], ["country"])
    counting.add_features(rows, np.array([[1.0], [np.nan], [np.nan], [np.nan]], np.float32), ["x"])
    found = {place: (c["x"].rows, c["x"].nulls, c["x"].nans) for place, c in counting.counts.items()}
    assert found == {WHOLE: (4, 2, 1), ("country", "a"): (3, 1, 1), ("country", "b"): (1, 1, 0)}


def test_quantiles_are_near_those_of_the_values() -> None:
    column = np.random.default_rng(1).normal(size=100_000).astype(np.float32)
    found = counted(column, edges_of(column)).quantiles()
    assert found is not None
    assert found[3] == pytest.approx(np.quantile(column, 0.5), abs=0.02)
    assert found[1:6] == pytest.approx(np.quantile(column, [0.05, 0.25, 0.5, 0.75, 0.95]), abs=0.05)


def test_edges_of_a_continuous_column_are_its_quantiles() -> None:
    column = np.random.default_rng(2).normal(size=10_000).astype(np.float32)
    edges = edges_of(column)
    assert edges == pytest.approx(np.quantile(column, LEVELS, method="higher"), abs=1e-6)
    assert list(edges) == sorted(set(edges))


def test_edges_give_each_frequent_value_a_bin_of_its_own() -> None:
    column = np.repeat(np.array([0, 1, 2, 7], np.float32), [500, 300, 150, 50])
    counts = counted(column, edges_of(column))
    assert sorted(count for count in counts.bins.tolist() if count) == [50, 150, 300, 500]


@pytest.mark.parametrize("values", [[], [np.nan, np.inf]], ids=["no rows", "no finite value"])
def test_edges_of_nothing_are_none_and_counting_goes_on(values: list[float]) -> None:
    column = np.array(values, np.float32)
    assert edges_of(column) == ()
    assert counted(column, ()).rows == len(values)


def test_profile_read_back_is_what_was_written() -> None:
    rng = np.random.default_rng(3)
    rows = pa.record_batch({"x": rng.normal(size=50), "country": rng.choice(["a", "b"], 50)})
    counting = Counting([Spec("feature", "x", EDGES)], ["country"])
    counting.add_features(rows, rows.column("x").to_numpy().astype(np.float32)[:, None], ["x"])
    found = from_table(to_table(counting, "run", now(), 10))
    assert found.keys() == counting.counts.keys()
    for place, columns in found.items():
        mine = counting.counts[place]["x"]
        assert columns["x"].bins.tolist() == mine.bins.tolist()
        assert (columns["x"].rows, columns["x"].mean, columns["x"].m2) == (mine.rows, mine.mean, mine.m2)


def test_slices_beyond_the_most_are_those_with_the_fewest_rows() -> None:
    rows = pa.record_batch({"x": np.zeros(6), "country": ["a", "b", "b", "c", "c", "c"]})
    counting = Counting([Spec("feature", "x", EDGES)], ["country"])
    counting.add_features(rows, np.zeros((6, 1), np.float32), ["x"])
    assert list(from_table(to_table(counting, "run", now(), 2))) == [WHOLE, ("country", "c"), ("country", "b")]


def test_days_with_other_edges_are_not_merged() -> None:
    one, other = counted(np.zeros(5, np.float32)), counted(np.zeros(7, np.float32), (0.0, 9.0))
    assert merged([{"x": one}, {"x": other}, {"x": one}])["x"].rows == 10
