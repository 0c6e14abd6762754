"""What happens with a row: scored (because it is new, changed, or new to this model), unchanged, or rejected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import QualityStop
from pipeline.job_tables import Policy

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

REASONS = ("new", "changed", "model")
NEW, CHANGED, MODEL = range(3)


@dataclass(frozen=True)
class Judged:
    """The dispositions of a batch's rows. `None` for a mask means all rows, or none, as its name says."""

    to_score: NDArray[np.bool_] | None
    """(rows,), or None if all are to be scored"""
    rejected: NDArray[np.bool_] | None
    """(rows,), or None if none is rejected"""
    reasons: NDArray[np.int8]
    """Index into REASONS, for the rows to score."""
    revisions: NDArray[np.int32]
    """For the rows to score."""
    unchanged: int

    def counts(self) -> Counter[str]:
        counts = Counter(scored=len(self.reasons), unchanged=self.unchanged)
        if self.rejected is not None:
            counts["quarantined"] = int(self.rejected.sum())
        for reason, rows in zip(REASONS, np.bincount(self.reasons, minlength=len(REASONS)), strict=True):
            counts[f"reason.{reason}"] = int(rows)
        return counts


def judge(batch: pa.RecordBatch, matrix: NDArray[np.float32], prints: NDArray[np.int64], policy: Policy) -> Judged:
    """Judges a batch of `select/to_score.sql`. Raises QualityStop where the policy says `fail`."""
    rows = batch.num_rows
    reasons = np.zeros(rows, np.int8)
    revisions = np.zeros(rows, np.int32)
    to_score: NDArray[np.bool_] | None = None
    stored = batch.column("__fingerprint")
    if stored.null_count < rows:
        known = stored.is_valid().to_numpy(zero_copy_only=False)
        same = known & (stored.fill_null(0).to_numpy() == prints)
        to_score = ~same
        reasons[known] = CHANGED
        revisions[known] = batch.column("__revision").fill_null(-1).to_numpy()[known] + 1
    if batch.column("__other_version").true_count:
        elsewhere = batch.column("__other_version").to_numpy(zero_copy_only=False)
        reasons[elsewhere & (reasons == NEW)] = MODEL
    unchanged = 0 if to_score is None else rows - int(to_score.sum())
    rejected = _rejected(matrix, policy)
    if rejected is not None:
        if to_score is not None:
            rejected &= to_score
        to_score = ~rejected if to_score is None else to_score & ~rejected
    if to_score is not None:
        reasons, revisions = reasons[to_score], revisions[to_score]
    return Judged(to_score, rejected, reasons, revisions, unchanged)


def only(judged: Judged, mask: NDArray[np.bool_]) -> Judged:
    """Keeps of the rows to score those in `mask` (rows,), and rejects none: the others are judged in a later pass."""
    to_score = mask if judged.to_score is None else judged.to_score & mask
    kept = mask if judged.to_score is None else mask[judged.to_score]
    return Judged(to_score, None, judged.reasons[kept], judged.revisions[kept], 0)


def reasons_for(
    matrix: NDArray[np.float32], features: Sequence[str], policy: Policy, categories: Collection[str] = ()
) -> list[list[str]]:
    """Returns, for each rejected row, why: `null:<feature>`, `infinite:<feature>`; of a category `unknown:<feature>`.

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
    """Adds to the reasons of rejected rows, (rows,) lists of text, those of their features.

    Raises QualityStop where the policy says `fail`.
    """
    if _rejected(matrix, policy) is None:
        return known
    own = reasons_for(matrix, features, policy, categories)
    joined = [[*reasons, *others] for reasons, others in zip(known.to_pylist(), own, strict=True)]
    import pyarrow as pa

    return pa.array(joined, known.type)


def _rejected(matrix: NDArray[np.float32], policy: Policy) -> NDArray[np.bool_] | None:
    if np.isfinite(matrix).all():
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
                got=f"columns number {', '.join(str(index + 1) for index in np.nonzero(mask.any(axis=0))[0])}",
            )
    bad = infinite if policy.null_features == "score" else infinite | missing
    rejected = np.asarray(bad.any(axis=1))
    return rejected if rejected.any() else None
