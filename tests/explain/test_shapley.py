"""Shapley values: against their definition over all orders, closed forms, and their properties."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.explain import shapley

Matrix = NDArray[np.float32]


def network(features: int, seed: int = 0) -> shapley.Score:
    """A score with interactions of all orders."""
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(features, 8)), rng.normal(size=8)
    return lambda matrix: 1 / (1 + np.exp(-np.maximum(matrix.astype(np.float64) @ first, 0) @ second))


def rows(features: int, seed: int = 1) -> tuple[Matrix, Matrix]:
    row, baseline = np.random.default_rng(seed).normal(size=(2, features)).astype(np.float32)
    return row, baseline


def by_definition(score: shapley.Score, row: Matrix, baseline: Matrix) -> NDArray[np.float64]:
    """The mean over all orders of what each feature adds when its turn comes."""
    found = np.zeros(len(row))
    orders = list(permutations(range(len(row))))
    for order in orders:
        current = baseline.copy()
        for feature in order:
            before = score(current[None])[0]
            current[feature] = row[feature]
            found[feature] += score(current[None])[0] - before
    return found / len(orders)


@pytest.mark.parametrize("features", [1, 2, 5, 6])
def test_exact_is_the_mean_over_all_orders(features: int) -> None:
    score, (row, baseline) = network(features), rows(features)
    assert shapley.exact(score, row, baseline) == pytest.approx(by_definition(score, row, baseline), abs=1e-12)


def test_exact_of_a_linear_score_is_weight_times_distance() -> None:
    weights = np.array([2.0, -1.0, 0.0, 0.5])
    row, baseline = rows(4)
    found = shapley.exact(lambda matrix: matrix @ weights, row, baseline)
    assert found == pytest.approx(weights * (row.astype(np.float64) - baseline), abs=1e-6)


@pytest.mark.parametrize("features", [1, 6, 12, 13, 40])
def test_shares_add_up_to_what_the_row_has_over_the_baseline(features: int) -> None:
    score, (row, baseline) = network(features), rows(features)
    total = score(row[None])[0] - score(baseline[None])[0]
    assert shapley.shares(score, row, baseline).sum() == pytest.approx(total, abs=1e-9)


def test_share_of_a_feature_as_in_the_baseline_is_nothing() -> None:
    score, (row, baseline) = network(5), rows(5)
    row[2] = baseline[2]
    for method in (shapley.exact, shapley.drawn):
        assert method(score, row, baseline)[2] == pytest.approx(0, abs=1e-12)


def test_shares_of_features_that_stand_for_each_other_are_equal() -> None:
    def score(matrix: Matrix) -> NDArray[np.float64]:
        return np.asarray(matrix[:, 0] * matrix[:, 1], np.float64)

    found = shapley.exact(score, np.array([2, 2], np.float32), np.array([0, 0], np.float32))
    assert found == pytest.approx([2.0, 2.0])


def test_drawn_is_near_the_exact_one_and_the_same_every_time() -> None:
    score, (row, baseline) = network(8), rows(8)
    drawn = shapley.drawn(score, row, baseline, orders=400)
    assert drawn == pytest.approx(shapley.exact(score, row, baseline), abs=0.02)
    assert np.array_equal(drawn, shapley.drawn(score, row, baseline, orders=400))


def test_features_beyond_the_limit_are_drawn(monkeypatch: Any) -> None:
    asked: list[int] = []

    def score(matrix: Matrix) -> NDArray[np.float64]:
        asked.append(len(matrix))
        return np.asarray(matrix.sum(axis=1), np.float64)

    shapley.shares(score, *rows(shapley.EXACT))
    assert asked == [2**shapley.EXACT]
    shapley.shares(score, *rows(shapley.EXACT + 1))
    assert max(asked[1:]) == shapley.EXACT + 2
