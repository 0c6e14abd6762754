"""What each feature adds to a score, by Shapley values against one baseline row.

The score of a set of features is that of the baseline row with these features replaced by those of the explained row. A
feature's share is the change of the score when it is added, averaged over all orders of adding features. The shares
always add up to `score(row) - score(baseline)`, and a feature with its baseline value has a share of 0.
"""

from __future__ import annotations

from collections.abc import Callable
from math import factorial

import numpy as np
from numpy.typing import NDArray

Score = Callable[[NDArray[np.float32]], NDArray[np.float64]]
"""Function from (rows, features) to the scores (rows,)."""

EXACT = 12
"""Number of features up to which all sets are scored (4,096 sets for 12); for more features, orders are drawn."""
ORDERS = 256
"""Number of orders that are drawn; each is used together with its reverse."""


def shares(score: Score, row: NDArray[np.float32], baseline: NDArray[np.float32]) -> NDArray[np.float64]:
    """Returns the share of each feature: (features,). `row` and `baseline` are (features,)."""
    return exact(score, row, baseline) if len(row) <= EXACT else drawn(score, row, baseline)


def exact(score: Score, row: NDArray[np.float32], baseline: NDArray[np.float32]) -> NDArray[np.float64]:
    """Like `shares`, by scoring each of the 2^features sets."""
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
    """Like `shares`, over drawn orders, each with its reverse. The seed is fixed; these shares also add up."""
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
