"""The workers of the streaming pass: equal threads, one per core, that take batches in turn from one shared reader.

Each prepares its batches, runs the forward pass in its own thread, and writes its own files. While the model is being
loaded they prepare batches ahead: importing torch keeps one core busy, not all of them.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pipeline.context import Context
from pipeline.engines.threads import Threads
from pipeline.job.config import Policy
from pipeline.model.manifest import Signature
from pipeline.profiles.stream_counts import Tally
from pipeline.records import now
from pipeline.scoring import batch as batches
from pipeline.scoring.batch import PreparedBatch
from pipeline.staging.rows import FEW_VALUES, rejected_batch, stored_batch, written_schema
from pipeline.staging.writer import Writer

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from pipeline.model.predictor import Predictor

AHEAD = 3
"""Number of batches that each worker prepares while the model is being loaded."""
PARTS = ("read", "judge", "wait", "forward", "write")
"""Activities of a worker: its turn at the shared reader, preparing and counting, waiting for the model, and so on."""


class Outputs(batches.Outputs, Protocol):
    """Outputs for which a worker may have to wait."""

    def ready(self) -> bool:
        """Tells whether `wait` would return at once; called when there is a row to score."""

    def wait(self) -> None: ...


class ModelOutputs:
    """Runs the model, which is loaded in a thread of its own as soon as a row needs it."""

    def __init__(self, load: Callable[[], tuple[Predictor, int]]) -> None:
        """`load` returns the model, and the number of rows per forward pass."""
        self.cpu_s = 0.0
        """CPU seconds of the thread that loads the model."""
        self._load = load
        self._lock = threading.Lock()
        self._loading: Future[tuple[Predictor, int]] | None = None

    def ready(self) -> bool:
        return self._begun().done()

    def wait(self) -> None:
        self._begun().result()

    def __call__(self, _rows: pa.RecordBatch, matrix: NDArray[np.float32], /) -> pa.RecordBatch:
        predictor, batch_rows = self._begun().result()
        return predictor.predict_arrow(matrix, batch_rows)

    def _begun(self) -> Future[tuple[Predictor, int]]:
        with self._lock:
            if self._loading is None:
                pool = ThreadPoolExecutor(1, thread_name_prefix="load")
                self._loading = pool.submit(self._timed)
                pool.shutdown(wait=False)
            return self._loading

    def _timed(self) -> tuple[Predictor, int]:
        try:
            return self._load()
        finally:
            self.cpu_s = time.thread_time()


class ReusedOutputs:
    """The outputs that a crashed run had staged."""

    def ready(self) -> bool:
        return True

    def wait(self) -> None:
        """Returns at once."""

    def __call__(self, rows: pa.RecordBatch, matrix: NDArray[np.float32], /) -> pa.RecordBatch:
        return batches.reused_outputs(rows, matrix)


class Source:
    """A reader that workers share: each takes the next batch in turn."""

    def __init__(
        self,
        reader: pa.RecordBatchReader,
        ctx: Context,
        total: int,
        complete: Callable[[pa.RecordBatch], pa.RecordBatch] | None = None,
    ) -> None:
        """`complete` is applied to each batch, in the thread of the worker that takes it."""
        self._batches, self._ctx, self._total, self._complete = iter(reader), ctx, total, complete
        self._lock = threading.Lock()
        self._done = 0
        self._stopped = False

    def next(self) -> pa.RecordBatch | None:
        """Returns the next batch; None after the last one, or once the source was stopped."""
        with self._lock:
            batch = None if self._stopped else next(self._batches, None)
            if batch is not None:
                self._done += batch.num_rows
                self._ctx.progress("score", self._done, self._total)
        return batch if batch is None or self._complete is None else self._complete(batch)

    def stop(self) -> None:
        self._stopped = True


class Sink:
    """Writes the predictions and the rejected rows of one worker."""

    def __init__(
        self,
        folder: Path,
        worker: int,
        stored: pa.Schema,
        rejected: pa.Schema,
        metadata: Mapping[str, str],
        key: Sequence[str],
        run_id: str,
    ) -> None:
        self.stored, self.rejected, self.run_id = stored, rejected, run_id
        self._written = written_schema(stored)
        self._scored = Writer(folder, "scored", worker, self._written, dict(metadata), FEW_VALUES, key)
        self._rejected = Writer(folder, "rejected", worker, rejected, dict(metadata), ("run_id",))

    def score(self, prepared: PreparedBatch, outputs: pa.RecordBatch) -> None:
        self._scored.write(
            stored_batch(
                self._written, prepared.rows, outputs, prepared.fates, prepared.fingerprints, self.run_id, now()
            )
        )

    def reject(self, rows: pa.RecordBatch, reasons: pa.Array) -> None:
        self._rejected.write(rejected_batch(self.rejected, rows, reasons, self.run_id, now()))

    def close(self) -> None:
        self._scored.close()
        self._rejected.close()

    def abandon(self) -> None:
        self._scored.abandon()
        self._rejected.abandon()


class Worker:
    """One thread of the pass; `seconds` holds its time by activity."""

    def __init__(self, sink: Sink, outputs: Outputs, signature: Signature, policy: Policy, tally: Tally | None) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.surplus = False
        """Whether fewer workers are faster: then this one stops reading, and only scores what it has prepared."""
        self._sink, self._outputs, self._tally = sink, outputs, tally
        self._signature, self._policy = signature, policy
        self._kept = frozenset(sink.stored.names)

    def work(self, source: Source) -> Counter[str]:
        """Takes batches until there are none left, and returns the number of rows by disposition and reason.

        The first error of any worker stops them all; finished files stay staged for the next run.
        """
        counts: Counter[str] = Counter()
        ahead: deque[PreparedBatch] = deque()
        try:
            while not self.surplus and self._prepared(source, ahead, counts):
                while ahead and (len(ahead) > AHEAD or self._outputs.ready()):
                    self._finish(ahead.popleft())
            while ahead:
                self._finish(ahead.popleft())
            with self._timed("write"):
                self._sink.close()
        except BaseException:
            source.stop()
            self._sink.abandon()
            raise
        return counts

    def _prepared(self, source: Source, ahead: deque[PreparedBatch], counts: Counter[str]) -> bool:
        """Prepares the next batch for `ahead`, and adds to the counts; returns False if there are none left.

        Once it returns, nothing holds the batch as it was read, which has all columns.
        """
        if (batch := self._next(source)) is None:
            return False
        prepared = self._prepare(batch)
        counts.update(prepared.counts)
        if prepared.rows.num_rows:
            ahead.append(prepared)
        return True

    def _next(self, source: Source) -> pa.RecordBatch | None:
        with self._timed("read"):
            return source.next()

    def _prepare(self, batch: pa.RecordBatch) -> PreparedBatch:
        with self._timed("judge"):
            prepared = batches.prepare(batch, self._signature, self._policy, kept=self._kept, histograms=self._tally)
            if prepared.rejected is not None:
                self._sink.reject(prepared.rejected, prepared.rejection_reasons)
                prepared = replace(prepared, rejected=None, rejection_reasons=None)  # frees their memory
        return prepared

    def _finish(self, prepared: PreparedBatch) -> None:
        with self._timed("wait"):
            self._outputs.wait()
        with self._timed("forward"):
            outputs = self._outputs(prepared.rows, prepared.matrix)
        if self._tally is not None:
            with self._timed("judge"):
                self._tally.see_predictions(prepared.rows, outputs)
        with self._timed("write"):
            self._sink.score(prepared, outputs)

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - began


def work_all(workers: Sequence[Worker], source: Source) -> Counter[str]:
    """Runs workers, each in a thread, until the source is empty; returns the sum of their counts."""
    done = Threads(len(workers), source.stop, "score").map(lambda worker: worker.work(source), workers)
    return sum((counts for _, counts in done), Counter())
