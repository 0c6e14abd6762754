"""What the stream that scores counts on the way: each worker for itself, put together when all are done."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pipeline.context import Context
from pipeline.drift import edges, profiling
from pipeline.drift.counting import Counting
from pipeline.features import to_matrix
from pipeline.model.baseline import numbers
from pipeline.records import RunRecord

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from pipeline.drift.counting import Spec
    from pipeline.model.manifest import Manifest, Signature

log = logging.getLogger(__name__)


class Tally:
    """One worker's counts. What goes wrong here ends the counting, not the run: the profile is read afterwards then."""

    def __init__(self, specs: tuple[Spec, ...], slices: tuple[str, ...], signature: Signature) -> None:
        self.counting = Counting(specs, slices)
        self.features = numbers(signature)
        self.as_they_come = not signature.inputs
        """Whether the matrix has one column a feature, the value itself."""
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
        log.warning("the stream cannot be counted, it will be read again: %s", error)
        self.broken = True


class Tallies:
    """The counts of one run's stream: nothing on the first day of all, when there are no edges yet."""

    def __init__(self, ctx: Context, record: RunRecord, manifest: Manifest) -> None:
        self.ctx, self.record, self.manifest = ctx, record, manifest
        self._made: list[Tally] = []
        self._specs: tuple[Spec, ...] = ()
        profiling.forget_staged(ctx, record)  # an earlier attempt's, which saw other rows
        if ctx.job.drift.enabled:
            try:
                self._specs = edges.load(ctx, manifest) or ()
            except Exception as error:  # noqa: BLE001 - the stage that profiles meets it again, and says so
                log.warning("the edges of the profile cannot be read: %s", error)
        if record.plan.base:  # then the stream sees new predictions only
            self._specs = tuple(spec for spec in self._specs if spec.kind == "feature")

    def one(self) -> Tally:
        made = Tally(self._specs, self.ctx.job.drift.slices, self.manifest.signature)
        self._made.append(made)
        return made

    def keep(self) -> None:
        """Puts the sum of all beside what was staged, if none is broken."""
        if not self._made or any(tally.broken for tally in self._made):
            return
        total = Counting(self._specs, self.ctx.job.drift.slices)
        for tally in self._made:
            total.add(tally.counting)
        profiling.keep_for_stage(self.ctx, self.record, total)
