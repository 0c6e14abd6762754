"""Checks of the trees in a model's file, before a library that trusts its files reads them.

A child that does not exist, or a tree that is none, would make the library read memory that is not its own, or never
return.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import ModelRefused

if TYPE_CHECKING:
    from numpy.typing import NDArray


def check(right: bool | np.bool_, what: str, where: object) -> None:  # noqa: FBT001 -- reads as a sentence
    """Raises ModelRefused, with what is wrong with the trees, unless something is right."""
    if not right:
        raise ModelRefused(
            f"the trees in the model's file are damaged: {what}",
            where=where,
            next_step="save it again with the library that trained it",
        )


def integers(values: Any, count: int | None, what: str, where: object) -> NDArray[np.int64]:
    """Returns a list of whole numbers from a file, `count` of them. Raises ModelRefused for anything else."""
    found = np.asarray(values if len(values) else np.empty(0, np.int64))
    check(found.ndim == 1 and found.dtype.kind in "iub", f"{what} is not a list of whole numbers", where)
    check(count is None or len(found) == count, f"{what} has {len(found)} values, not {count}", where)
    return found.astype(np.int64)


def check_within(values: NDArray[np.int64], count: int, what: str, where: object) -> None:
    """Raises ModelRefused unless all values are indices of a list of `count`."""
    check(not len(values) or (values.min() >= 0 and values.max() < count), f"{what} is out of range", where)


def check_tree(left: NDArray[np.int64], right: NDArray[np.int64], leaf: NDArray[np.bool_], where: object) -> None:
    """Raises ModelRefused unless the nodes that the first one leads to are a tree: each is reached once.

    `left` and `right` are the children of each node, (nodes,); those of a leaf are not looked at.
    """
    check(len(leaf) > 0, "a tree has no node", where)
    seen = np.zeros(len(leaf), np.bool_)
    level = np.zeros(1, np.int64)
    while len(level):
        check(not seen[level].any() and len(np.unique(level)) == len(level), "a node has two parents", where)
        seen[level] = True
        inner = level[~leaf[level]]
        level = np.concatenate([left[inner], right[inner]])
        check_within(level, len(leaf), "a child", where)
