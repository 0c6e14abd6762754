"""Decides what happens to a row: published (for one of `REASONS`), unchanged, or rejected.

new       its key has no prediction here
changed   its features differ from those of its prediction
model     its key has a prediction, but by another model
carried   its carried values alone differ, and the job publishes such rows: no model runs, the stored outputs stay
returned  its key was withdrawn, and is in the input again
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import QualityStop
from pipeline.job.config import Policy
from pipeline.model.matrix import Features, is_finite

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

REASONS = ("new", "changed", "model", "carried", "returned")
NEW, CHANGED, MODEL, CARRIED, RETURNED = range(len(REASONS))
_BY_STORED = np.array([NEW, MODEL, CHANGED], np.int8)
"""The reason by what is stored for a key: nothing, a prediction of another model, or one of this model."""
WITHDRAWN = "withdrawn"
"""Reason of a stored row that says that its key has left the input; `selecting/withdrawn.py` makes it, no triage."""
NO_FEATURES = 0
"""Fingerprint of such a row: that of no row in the input, so its key is scored once it returns."""


@dataclass(frozen=True)
class Triaged:
    """The dispositions of a batch's rows."""

    to_score: NDArray[np.int64] | None
    """Places of the rows to score, in their order; None if all are to be scored."""
    rejected: NDArray[np.bool_] | None
    """Mask of the rejected rows, (rows,); None if none is rejected."""
    reasons: NDArray[np.int8]
    """Index into REASONS for each row to score."""
    revisions: NDArray[np.int32]
    """Revision of each row to score."""
    unchanged: int
    """Number of rows whose stored prediction is still valid."""
    carried_left: int = 0
    """Number of these whose carried values differ from what is stored."""

    def counts(self) -> Counter[str]:
        counts = Counter(scored=len(self.reasons), unchanged=self.unchanged, carried_left=self.carried_left)
        if self.rejected is not None:
            counts["quarantined"] = int(self.rejected.sum())
        for index, reason in enumerate(REASONS):  # unlike `bincount`, this leaves Python's lock to others
            counts[f"reason.{reason}"] = int(np.count_nonzero(self.reasons == index))
        return counts


def triage(batch: pa.RecordBatch, features: Features, policy: Policy) -> Triaged:
    """Decides on the rows of a batch of `selecting/to_score.sql`. Raises QualityStop where the policy says `fail`."""
    rows = batch.num_rows
    reasons, revisions = np.zeros(rows, np.int8), np.zeros(rows, np.int32)
    carried_left, same = 0, None
    stored, newest = batch.column("__fingerprint"), batch.column("__revision")
    if newest.null_count < rows:
        known, of_model = _is_valid(newest), _is_valid(stored)
        before = _raw(stored)
        same = of_model & (before == features.fingerprints) & (before != NO_FEATURES)
        reasons = _BY_STORED.take(known.view(np.int8) + of_model.view(np.int8))
        if (returned := of_model & (before == NO_FEATURES)).any():
            reasons[returned] = RETURNED
        if batch.column("__other_carried").true_count:
            carried = same & batch.column("__other_carried").to_numpy(zero_copy_only=False)
            if policy.carried_change == "publish":
                reasons[carried] = CARRIED
                same &= ~carried
            else:
                carried_left = int(np.count_nonzero(carried))
        revisions = (_raw(newest) + np.int32(1)) * known
    if batch.column("__other_version").true_count:
        elsewhere = batch.column("__other_version").to_numpy(zero_copy_only=False)
        reasons[elsewhere & (reasons == NEW)] = MODEL
    unchanged = 0 if same is None else int(np.count_nonzero(same))
    unfit = None if features.finite else rejected(features.matrix, policy)
    if unfit is not None and same is not None:
        unfit &= ~same
    left_out = [mask for mask in (same, unfit) if mask is not None]
    to_score = None
    if left_out:
        to_score = np.flatnonzero(~np.logical_or.reduce(left_out))  # by places: rows are taken faster than by a mask
        reasons, revisions = reasons[to_score], revisions[to_score]
    return Triaged(to_score, unfit, reasons, revisions, unchanged, carried_left)


def _is_valid(column: pa.Array) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = column.is_valid().to_numpy(zero_copy_only=False)
    return found


def _raw(column: pa.Array) -> NDArray[Any]:
    """Returns the integers of a column, with any number for NULL."""
    import pyarrow as pa

    kept = [None, column.buffers()[1]]
    values: NDArray[Any] = pa.Array.from_buffers(column.type, len(column), kept, offset=column.offset).to_numpy()
    return values


def restricted_to(triaged: Triaged, mask: NDArray[np.bool_]) -> Triaged:
    """Keeps only rows to score that are in `mask`, (rows,), and rejects none: a later pass decides on the others."""
    places = np.arange(len(mask)) if triaged.to_score is None else triaged.to_score
    kept = np.flatnonzero(mask[places])
    return Triaged(places[kept], None, triaged.reasons[kept], triaged.revisions[kept], 0)


def reasons_for(
    matrix: NDArray[np.float32], features: Sequence[str], policy: Policy, categories: Collection[str] = ()
) -> list[list[str]]:
    """Returns the reasons per rejected row: `null:<feature>`, `infinite:<feature>`, `unknown:<feature>` (category).

    `matrix` holds these rows only; `features` names the feature of each of its columns.
    """
    marks = [("infinite", np.isinf(matrix))]
    if policy.null_features != "score":
        marks.append(("null", np.isnan(matrix)))
    found: list[list[str]] = [[] for _ in matrix]
    for kind, mask in marks:
        for row, column in zip(*np.nonzero(mask), strict=True):
            name = features[column]
            reason = f"unknown:{name}" if kind == "infinite" and name in categories else f"{kind}:{name}"
            if reason not in found[row]:
                found[row].append(reason)
    return found


def with_reasons(
    known: pa.Array,
    matrix: NDArray[np.float32],
    features: Sequence[str],
    policy: Policy,
    categories: Collection[str] = (),
) -> pa.Array:
    """Adds to the known reasons of rejected rows, (rows,) lists of text, the reasons found in their features.

    Raises QualityStop where the policy says `fail`.
    """
    if rejected(matrix, policy) is None:
        return known
    own = reasons_for(matrix, features, policy, categories)
    joined = [[*reasons, *others] for reasons, others in zip(known.to_pylist(), own, strict=True)]
    import pyarrow as pa

    return pa.array(joined, known.type)


def rejected(matrix: NDArray[np.float32], policy: Policy) -> NDArray[np.bool_] | None:
    """Returns the mask of the rows, (rows,), whose features a policy rejects; None if there are none.

    Raises QualityStop where the policy says `fail`.
    """
    if is_finite(matrix):
        return None
    infinite = np.isinf(matrix)
    missing = np.isnan(matrix)
    for mask, kind, setting in (
        (infinite, "infinite", policy.infinite_features),
        (missing, "NULL", policy.null_features),
    ):
        if setting == "fail" and mask.any():
            raise QualityStop(
                f"features are {kind} in at least {int(mask.any(axis=1).sum())} rows",
                expected=f"finite numbers, or {kind.lower()}_features = 'quarantine' in job.toml",
                got=f"column numbers {', '.join(str(index + 1) for index in np.nonzero(mask.any(axis=0))[0])}",
            )
    bad = infinite if policy.null_features == "score" else infinite | missing
    found = np.asarray(bad.any(axis=1))
    return found if found.any() else None
