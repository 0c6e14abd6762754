"""What each feature adds to a score, by Shapley values against one baseline row.

The score of a set of features is that of the baseline row with these features taken from the row that is explained. A
feature's share is its addition, averaged over all orders in which the features can be taken. The shares always add up
to `score(row) - score(baseline)`, and a feature that is as in the baseline has none.
"""

from __future__ import annotations

from collections.abc import Callable
from math import factorial

import numpy as np
from numpy.typing import NDArray

Score = Callable[[NDArray[np.float32]], NDArray[np.float64]]
"""(rows, features) to (rows,)"""

EXACT = 12
"""Up to so many features all sets are scored, 4,096 of 12; of more, orders are drawn."""
ORDERS = 256
"""Drawn, each together with its reverse."""


def shares(score: Score, row: NDArray[np.float32], baseline: NDArray[np.float32]) -> NDArray[np.float64]:
    """Returns the share of each feature: (features,). `row` and `baseline` are (features,)."""
    return exact(score, row, baseline) if len(row) <= EXACT else drawn(score, row, baseline)


def exact(score: Score, row: NDArray[np.float32], baseline: NDArray[np.float32]) -> NDArray[np.float64]:
    """As `shares`, by scoring each of the 2^features sets."""
    count = len(row)
    sets = np.arange(2**count)
    taken = (sets[:, None] >> np.arange(count)) & 1 == 1  # (sets, features)
    scores = score(np.where(taken, row, baseline).astype(np.float32)).astype(np.float64)  # (sets,)
    sizes = taken.sum(axis=1)
    weights = np.array([factorial(size) * factorial(count - size - 1) / factorial(count) for size in range(count)])
    found = np.empty(count)
    for feature in range(count):
        without = sets[~taken[:, feature]]
        added = scores[without | (1 << feature)] - scores[without]
        found[feature] = weights[sizes[without]] @ added
    return found


def drawn(
    score: Score, row: NDArray[np.float32], baseline: NDArray[np.float32], orders: int = ORDERS
) -> NDArray[np.float64]:
    """As `shares`, over orders that are drawn, the same every time, each with its reverse; these also add up."""
    rng, count = np.random.default_rng(0), len(row)
    found = np.zeros(count)
    for _ in range(orders):
        order = rng.permutation(count)
        for each in (order, order[::-1]):
            place = np.empty(count, np.int64)
            place[each] = np.arange(count)
            taken = place[None, :] < np.arange(count + 1)[:, None]  # (features + 1, features)
            scores = score(np.where(taken, row, baseline).astype(np.float32)).astype(np.float64)
            found[each] += np.diff(scores)
    return found / (2 * orders)
