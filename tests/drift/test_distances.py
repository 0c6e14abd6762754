"""The statistics, against scipy's and against simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial import distance

from pipeline.drift import distances


def test_psi_is_the_sum_of_differences_times_logarithms() -> None:
    day, reference = np.array([100_000.0, 300_000, 600_000]), np.array([200_000.0, 300_000, 500_000])
    expected = (0.1 - 0.2) * np.log(0.1 / 0.2) + (0.6 - 0.5) * np.log(0.6 / 0.5)
    assert float(distances.psi(day, reference)) == pytest.approx(expected, rel=1e-4)
    assert float(distances.psi(day, day)) == 0.0


def test_jensen_shannon_is_that_of_scipy() -> None:
    day, reference = np.array([5.0, 0, 45, 50]), np.array([25.0, 25, 25, 25])
    expected = distance.jensenshannon(day, reference, base=2) ** 2
    assert distances.jensen_shannon(day, reference) == pytest.approx(expected, rel=1e-9)
    assert distances.jensen_shannon(np.array([1.0, 0]), np.array([0.0, 1])) == pytest.approx(1.0)


def test_likelihood_ratio_is_that_of_scipy() -> None:
    day, reference = np.array([30.0, 970]), np.array([100.0, 9_900])
    expected = stats.chi2_contingency(np.array([day, reference]), correction=False, lambda_="log-likelihood")
    assert float(distances.likelihood_ratio(day, reference)) == pytest.approx(expected.statistic, rel=1e-9)
    assert distances.p_value(expected.statistic, 1, 1.0, 0) == pytest.approx(expected.pvalue, rel=1e-9)


def test_likelihood_ratio_of_a_share_that_was_always_zero_is_finite() -> None:
    assert 0 < float(distances.likelihood_ratio(np.array([5.0, 95]), np.array([0.0, 1000]))) < 100


def test_holm_is_the_textbook_example() -> None:
    assert distances.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert distances.holm([]) == []


@pytest.mark.parametrize("dispersion", [1.0, 4.0])
def test_quantile_is_where_the_p_value_is_the_level(dispersion: float) -> None:
    needed = distances.quantile(0.001, 9, dispersion, 28)
    assert distances.p_value(needed, 9, dispersion, 28) == pytest.approx(0.001, rel=1e-6)


@given(st.lists(st.integers(0, 500), min_size=2, max_size=40), st.integers(0, 10**6))
def test_groups_are_neighbours_that_expect_enough_rows(bins: list[int], seed: int) -> None:
    reference = np.array(bins, np.float64) + 1
    day = np.random.default_rng(seed).multinomial(200, reference / reference.sum()).astype(np.float64)
    places = distances.groups(day, reference)
    assert set(np.diff(places).tolist()) <= {0, 1}
    assert places[0] == 0
    pooled = distances.grouped(day + reference, places)
    expected = pooled / pooled.sum() * min(day.sum(), reference.sum())
    assert len(expected) == 1 or expected.min() >= distances.LEAST_EXPECTED
    assert len(expected) <= distances.MOST_BINS + 1


def test_classes_that_are_rare_are_one_group() -> None:
    day, reference = np.array([500.0, 3, 400, 2]), np.array([5_000.0, 30, 4_000, 40])
    assert distances.classes(day, reference).tolist() == [1, 0, 2, 0]


@pytest.mark.parametrize("rows", [100, 1_000, 100_000])
def test_psi_of_samples_of_one_population_is_as_often_significant_as_it_says(rows: int) -> None:
    rng = np.random.default_rng(rows)
    shares = np.full(24, 1 / 24)
    days, references = rng.multinomial(rows, shares, 4000), rng.multinomial(20 * rows, shares, 4000)
    found = []
    for day, reference in zip(days.astype(np.float64), references.astype(np.float64), strict=True):
        places = distances.groups(day, reference)
        left, right = distances.grouped(day, places), distances.grouped(reference, places)
        found.append(
            distances.p_value(float(distances.psi(left, right) / distances.noise(left, right)), len(left) - 1, 1.0, 0)
        )
    for level in (0.1, 0.01):
        significant = int((np.array(found) < level).sum())
        interval = stats.binomtest(significant, len(found)).proportion_ci(0.999)
        assert interval.low <= level
        assert interval.high >= level / 2
