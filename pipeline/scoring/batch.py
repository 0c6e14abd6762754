"""Scores one Arrow batch. Nothing here touches a file, a lock or a clock.

    batch, signature, policy  ->  prepare  ->  PreparedBatch: rows to score, rejected rows with reasons, counts
    its rows and matrix       ->  Outputs  ->  the model's output columns

`prepare` needs no model: workers prepare batches while the model is being loaded, and a preview needs the counts alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa

from pipeline.job.config import Policy
from pipeline.model.manifest import Signature
from pipeline.model.matrix import features_of, to_matrix
from pipeline.model.memory_layout import taken
from pipeline.selecting.triage import Triaged, reasons_for, restricted_to, triage, with_reasons

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.profiles.stream_counts import Tally

REUSED = "__reused_"
"""Prefix of the columns with outputs that a crashed run had staged for these rows."""


class Outputs(Protocol):
    """Returns the output columns for rows and their matrix, float32 (rows, columns)."""

    def __call__(self, rows: pa.RecordBatch, matrix: NDArray[np.float32], /) -> pa.RecordBatch: ...


@dataclass(frozen=True)
class PreparedBatch:
    """A batch after triage."""

    rows: pa.RecordBatch
    """The rows to score, with the columns that are kept."""
    matrix: NDArray[np.float32]
    """Features of these rows, (rows, columns)."""
    fingerprints: NDArray[np.int64]
    """Fingerprints of these rows, (rows,)."""
    fates: Triaged
    """Reason and revision of these rows."""
    rejected: pa.RecordBatch | None
    """The rejected rows with all their columns; None if there are none."""
    rejection_reasons: pa.Array | None
    """Lists of text, one per rejected row."""
    counts: Counter[str]
    """Number of rows by disposition, and by `reason.<reason>`."""


def prepare(
    batch: pa.RecordBatch,
    signature: Signature,
    policy: Policy,
    *,
    kept: Collection[str] | None = None,
    histograms: Tally | None = None,
) -> PreparedBatch:
    """Decides on each row of `selecting/to_score.sql`, and computes the features of the rows to score.

    `kept` names the columns that these rows keep; by default all. The features of the batch are added to `histograms`.
    Raises QualityStop where the policy says `fail`.
    """
    features = features_of(batch, signature.features, signature.inputs)
    matrix, fingerprints = features.matrix, features.fingerprints
    if histograms is not None:
        histograms.see_features(batch, matrix)
    fates = triage(batch, features, policy)
    if REUSED + "fingerprint" in batch.schema.names:
        fates = restricted_to(fates, batch.column(REUSED + "fingerprint").to_numpy() == fingerprints)
    rejected = reasons = None
    if fates.rejected is not None:
        places = np.flatnonzero(fates.rejected)
        found = reasons_for(taken(matrix, places), signature.columns, policy, signature.categories)
        rejected, reasons = batch.take(pa.array(places)), pa.array(found, pa.list_(pa.string()))
    if kept is not None:
        batch = batch.select([name for name in batch.schema.names if name in kept or name.startswith(REUSED)])
    if fates.to_score is None:
        batch = pa.concat_batches([batch])  # a copy: any column of DuckDB's holds the memory of all columns
    else:
        batch = batch.take(pa.array(fates.to_score))
        matrix, fingerprints = taken(matrix, fates.to_score), fingerprints[fates.to_score]
    return PreparedBatch(batch, matrix, fingerprints, fates, rejected, reasons, fates.counts())


def reused_outputs(rows: pa.RecordBatch, _matrix: NDArray[np.float32], /) -> pa.RecordBatch:
    """Returns the outputs that a crashed run had staged for these rows: `Outputs` without a model."""
    names = [name for name in rows.schema.names if name.startswith(REUSED)]
    return rows.select(names).rename_columns([name.removeprefix(REUSED) for name in names])


def reasons_of_unselected(batch: pa.RecordBatch, signature: Signature, policy: Policy) -> pa.Array:
    """Returns the quarantine reasons of rows that were never selected, (rows,) lists of text.

    Adds the reasons found in their features to those in `reasons`. Raises QualityStop where the policy says `fail`.
    """
    matrix = to_matrix(batch, signature.features, signature.inputs)
    return with_reasons(batch.column("reasons"), matrix, signature.columns, policy, signature.categories)
