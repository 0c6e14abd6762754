"""Counts histograms while the stream scores: each worker counts its own rows, and the counts are added at the end."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pipeline.context import Context
from pipeline.histograms.counting import Counting
from pipeline.model.baseline import numbers
from pipeline.model.matrix import to_matrix
from pipeline.profiles import bin_edges
from pipeline.profiles.stage import forget_stream_counts, keep_stream_counts
from pipeline.records import RunRecord

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from pipeline.histograms.counting import Spec
    from pipeline.model.manifest import Manifest, Signature

log = logging.getLogger(__name__)


class Tally:
    """One worker's counts. An error here ends the counting, not the run: the profile stage then reads the rows."""

    def __init__(self, specs: tuple[Spec, ...], slices: tuple[str, ...], signature: Signature) -> None:
        self.counting = Counting(specs, slices)
        self.features = numbers(signature)
        self.as_they_come = not signature.inputs
        """Whether the matrix has one column per feature, with its plain values."""
        self.broken = not specs

    def see_features(self, rows: pa.RecordBatch, matrix: NDArray[np.float32]) -> None:
        if not self.broken:
            try:
                raw = matrix if self.as_they_come else to_matrix(rows, self.features)
                self.counting.add_features(rows, raw, self.features)
            except Exception as error:  # noqa: BLE001 - as the class says
                self._break(error)

    def see_predictions(self, rows: pa.RecordBatch, outputs: pa.RecordBatch) -> None:
        if not self.broken and "score" in self.counting.kinds:
            try:
                self.counting.add_predictions(rows, outputs)
            except Exception as error:  # noqa: BLE001 - as the class says
                self._break(error)

    def _break(self, error: Exception) -> None:
        log.warning("counting failed while scoring; the profile stage will read the rows again: %s", error)
        self.broken = True


class Tallies:
    """The counts of one run's stream; empty on the very first day, when there are no edges yet."""

    def __init__(self, ctx: Context, record: RunRecord, manifest: Manifest, place: str) -> None:
        """`place` is the key of the folder with the files that the stream stages."""
        self.ctx, self.record, self.manifest, self.place = ctx, record, manifest, place
        self._made: list[Tally] = []
        self._specs: tuple[Spec, ...] = ()
        forget_stream_counts(ctx, place)  # those of an earlier attempt, which saw other rows
        if ctx.job.drift.enabled:
            try:
                self._specs = bin_edges.load(ctx, manifest) or ()
            except Exception as error:  # noqa: BLE001 - the profile stage meets the same error and reports it
                log.warning("the bin edges of the profile cannot be read: %s", error)
        if record.plan.base:  # then the stream sees new predictions only
            self._specs = tuple(spec for spec in self._specs if spec.kind == "feature")

    def one(self) -> Tally:
        made = Tally(self._specs, self.ctx.job.drift.slices, self.manifest.signature)
        self._made.append(made)
        return made

    def keep(self) -> None:
        """Writes the sum of all counts beside the staged files, unless the counting of one worker failed."""
        if not self._made or any(tally.broken for tally in self._made):
            return
        total = Counting(self._specs, self.ctx.job.drift.slices)
        for tally in self._made:
            total.add(tally.counting)
        keep_stream_counts(self.ctx, self.place, self.record.run_id, total)
