"""Counts histograms while the stream scores: each worker counts its own rows, and the counts are added at the end."""

from __future__ import annotations

import logging
from collections.abc import Callable
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
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation
    from numpy.typing import NDArray

    from pipeline.histograms.counting import Spec
    from pipeline.model.manifest import Manifest, Signature

log = logging.getLogger(__name__)


class Tally:
    """One worker's counts. An error here ends the counting, not the run: the profile stage then reads the rows."""

    def __init__(
        self,
        specs: tuple[Spec, ...],
        slices: tuple[str, ...],
        signature: Signature,
        outputs: Callable[[], tuple[Spec, ...]] | None = None,
    ) -> None:
        """`outputs` returns what else to count, of predictions; it is called once there are some."""
        self.counting = Counting(specs, slices)
        self.features = numbers(signature)
        self.as_they_come = not signature.inputs
        """Whether the matrix has one column per feature, with its plain values."""
        self.broken = not specs
        self._outputs = outputs

    def see_features(self, rows: pa.RecordBatch, matrix: NDArray[np.float32]) -> None:
        if not self.broken:
            try:
                raw = matrix if self.as_they_come else to_matrix(rows, self.features)
                self.counting.add_features(rows, raw, self.features)
            except Exception as error:  # noqa: BLE001 - as the class says
                self._break(error)

    def see_predictions(self, rows: pa.RecordBatch, outputs: pa.RecordBatch) -> None:
        if self.broken:
            return
        try:
            if self._outputs is not None:
                self.counting.join(Counting(self._outputs(), self.counting.slices))
                self._outputs = None
            if "score" in self.counting.kinds:
                self.counting.add_predictions(rows, outputs)
        except Exception as error:  # noqa: BLE001 - as the class says
            self._break(error)

    def _break(self, error: Exception) -> None:
        log.warning("counting failed while scoring; the profile stage will read the rows again: %s", error)
        self.broken = True


class Tallies:
    """The counts of one run's stream; empty on a first day that is not large, when there are no edges yet."""

    def __init__(self, ctx: Context, record: RunRecord, manifest: Manifest, place: str) -> None:
        """`place` is the key of the folder with the files that the stream stages."""
        self.ctx, self.record, self.manifest, self.place = ctx, record, manifest, place
        self._made: list[Tally] = []
        self._specs: tuple[Spec, ...] | None = ()
        """What is counted; None as long as there are no edges."""
        self._sample: bin_edges.Sample | None = None
        self._outputs: tuple[Spec, ...] = ()
        """What is counted of predictions, by edges found in the sample."""
        forget_stream_counts(ctx, place)  # those of an earlier attempt, which saw other rows
        if ctx.job.drift.enabled:
            try:
                self._specs = bin_edges.load(ctx, manifest)
            except Exception as error:  # noqa: BLE001 - the profile stage meets the same error and reports it
                log.warning("the bin edges of the profile cannot be read: %s", error)
        if record.plan.base:  # then the stream sees new predictions only
            self._specs = tuple(spec for spec in self._specs or () if spec.kind == "feature")

    def take_sample(self, con: Connection, rows: Relation) -> None:
        """Finds the edges of a large first day from some of its `rows`, which are all that the stream will see.

        Raises the errors of reading them.
        """
        signature = self.manifest.signature
        large = self.record.plan.candidates.rows >= bin_edges.LARGE and signature.width <= bin_edges.AT_ONCE
        if self._specs is None and large and not self.ctx.frugal:
            self._sample = bin_edges.Sample.of(con, rows, signature, self.ctx.job.policy)
            self._specs = self._sample.features if self._sample is not None else None

    def score_sample(self, predict: Callable[[NDArray[np.float32]], pa.RecordBatch]) -> None:
        """Finds the edges of the predictions of a large first day; to be called before there is any."""
        if self._sample is not None:
            try:
                self._outputs = self._sample.outputs(predict)
            except Exception as error:  # noqa: BLE001 - an error of the model meets the workers, too
                log.warning("the bin edges of the predictions cannot be found while scoring: %s", error)

    def one(self) -> Tally:
        outputs = None if self._sample is None else lambda: self._outputs
        made = Tally(self._specs or (), self.ctx.job.drift.slices, self.manifest.signature, outputs)
        self._made.append(made)
        return made

    def keep(self) -> None:
        """Writes the sum of all counts beside the staged files, unless the counting of one worker failed."""
        if not self._made or any(tally.broken for tally in self._made):
            return
        total = Counting((*(self._specs or ()), *self._outputs), self.ctx.job.drift.slices)
        for tally in self._made:
            total.add(tally.counting)
        keep_stream_counts(self.ctx, self.place, self.record.run_id, total)
