"""The workers of the streaming pass: equal ones, one a core, that take the next batch of one shared reader in turn.

Each judges its batches, runs the forward pass in its own thread and writes its own files. While the model is loaded
they read and judge ahead: importing torch keeps one core busy, not all.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa

from pipeline import staging
from pipeline.context import Context
from pipeline.dispositions import Judged, judge, only, reasons_for
from pipeline.drift.tally import Tally
from pipeline.features import row_fingerprints, to_matrix
from pipeline.job_tables import Policy
from pipeline.model.manifest import Signature
from pipeline.predictions import FEW_VALUES, rejected_batch, stored_batch, written_schema
from pipeline.records import now

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipeline.model.predictor import Predictor

AHEAD = 3
"""Batches that each worker reads and judges before the model is there."""
ADOPTED = "__adopted_"
"""Prefix of the columns that a crashed run had staged."""
PARTS = ("read", "judge", "wait", "forward", "write")
"""Where a worker's time goes: the shared reader (and the turn at it), judging, the model's loading, and so on."""


class Outputs(Protocol):
    """Gives the output columns of the rows to score, from those rows and their matrix (rows, columns)."""

    def ready(self) -> bool:
        """Tells whether `wait` would return at once; asked when there is a row to score."""

    def wait(self) -> None: ...

    def __call__(self, rows: pa.RecordBatch, matrix: NDArray[np.float32], /) -> pa.RecordBatch: ...


class Predicted:
    """Runs the model, which is loaded in a thread of its own once a row needs it."""

    def __init__(self, load: Callable[[], tuple[Predictor, int]]) -> None:
        """`load` gives the model, and how many rows go through it at a time."""
        self.cpu_s = 0.0
        """Of the thread that loads."""
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


class Adopted:
    """Takes what a crashed run had staged for these rows."""

    def ready(self) -> bool:
        return True

    def wait(self) -> None:
        """There is nothing to wait for."""

    def __call__(self, rows: pa.RecordBatch, _matrix: NDArray[np.float32], /) -> pa.RecordBatch:
        names = [name for name in rows.schema.names if name.startswith(ADOPTED)]
        return rows.select(names).rename_columns([name.removeprefix(ADOPTED) for name in names])


class Source:
    """One reader, shared: each worker takes the next batch in turn."""

    def __init__(self, reader: pa.RecordBatchReader, ctx: Context, total: int) -> None:
        self._batches, self._ctx, self._total = iter(reader), ctx, total
        self._lock = threading.Lock()
        self._done = 0
        self._stopped = False

    def next(self) -> pa.RecordBatch | None:
        """Returns the next batch, or None after the last, or once somebody has stopped the source."""
        with self._lock:
            batch = None if self._stopped else next(self._batches, None)
            if batch is not None:
                self._done += batch.num_rows
                self._ctx.progress("score", self._done, self._total)
            return batch

    def stop(self) -> None:
        self._stopped = True


class Sink:
    """What one worker writes: predictions, and rejected rows."""

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
        self._scored = staging.Writer(folder, "scored", worker, self._written, dict(metadata), FEW_VALUES, key)
        self._rejected = staging.Writer(folder, "rejected", worker, rejected, dict(metadata), ("run_id",))

    def score(self, rows: pa.RecordBatch, columns: pa.RecordBatch, judged: Judged, prints: NDArray[np.int64]) -> None:
        self._scored.write(stored_batch(self._written, rows, columns, judged, prints, self.run_id, now()))

    def reject(self, rows: pa.RecordBatch, reasons: pa.Array) -> None:
        self._rejected.write(rejected_batch(self.rejected, rows, reasons, self.run_id, now()))

    def close(self) -> None:
        self._scored.close()
        self._rejected.close()

    def abandon(self) -> None:
        self._scored.abandon()
        self._rejected.abandon()


@dataclass(frozen=True)
class _Waiting:
    """The rows of a batch that are to be scored: what the files take of their columns, and their matrix."""

    rows: pa.RecordBatch
    matrix: NDArray[np.float32]
    prints: NDArray[np.int64]
    judged: Judged


class Worker:
    """One of the workers; `seconds` says where its time went."""

    def __init__(self, sink: Sink, outputs: Outputs, signature: Signature, policy: Policy, tally: Tally | None) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.surplus = False
        """Set where fewer workers are faster: this one reads nothing more, and scores what it has read ahead."""
        self._sink, self._outputs, self._tally = sink, outputs, tally
        self._signature, self._policy = signature, policy

    def work(self, source: Source) -> Counter[str]:
        """Takes batches until there is none, and returns the counts by disposition and reason.

        The first error of any worker stops them all; what is finished stays staged for the next run.
        """
        counts: Counter[str] = Counter()
        ahead: deque[_Waiting] = deque()
        try:
            while not self.surplus and (batch := self._next(source)) is not None:
                with self._timed("judge"):
                    judged, waiting = self._judge(batch)
                counts.update(judged.counts())
                if waiting is not None:
                    ahead.append(waiting)
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

    def _next(self, source: Source) -> pa.RecordBatch | None:
        with self._timed("read"):
            return source.next()

    def _judge(self, batch: pa.RecordBatch) -> tuple[Judged, _Waiting | None]:
        signature = self._signature
        matrix = to_matrix(batch, signature.features, signature.inputs)
        prints = row_fingerprints(batch, matrix, signature.features, signature.inputs)
        if self._tally is not None:
            self._tally.see_features(batch, matrix)
        judged = judge(batch, matrix, prints, self._policy)
        if ADOPTED + "fingerprint" in batch.schema.names:
            judged = only(judged, batch.column(ADOPTED + "fingerprint").to_numpy() == prints)
        if judged.rejected is not None:
            reasons = reasons_for(matrix[judged.rejected], signature.columns, self._policy, signature.categories)
            self._sink.reject(batch.filter(pa.array(judged.rejected)), pa.array(reasons, pa.list_(pa.string())))
        stored = set(self._sink.stored.names)
        batch = batch.select([name for name in batch.schema.names if name in stored or name.startswith(ADOPTED)])
        if judged.to_score is not None:
            batch = batch.filter(pa.array(judged.to_score))
            matrix, prints = matrix[judged.to_score], prints[judged.to_score]
        return judged, _Waiting(batch, matrix, prints, judged) if batch.num_rows else None

    def _finish(self, waiting: _Waiting) -> None:
        with self._timed("wait"):
            self._outputs.wait()
        with self._timed("forward"):
            columns = self._outputs(waiting.rows, waiting.matrix)
        if self._tally is not None:
            with self._timed("judge"):
                self._tally.see_predictions(waiting.rows, columns)
        with self._timed("write"):
            self._sink.score(waiting.rows, columns, waiting.judged, waiting.prints)

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] += time.perf_counter() - began


def work_all(workers: Sequence[Worker], source: Source) -> Counter[str]:
    """Runs workers, each in a thread, until the source is empty; returns the sum of their counts."""
    with ThreadPoolExecutor(len(workers), thread_name_prefix="score") as pool:
        try:
            return sum((each.result() for each in [pool.submit(worker.work, source) for worker in workers]), Counter())
        except BaseException:
            source.stop()
            raise
