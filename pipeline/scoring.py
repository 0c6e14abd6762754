"""The streaming pass: Arrow batches in, staged predictions out.

Equal workers, one a core, take the next batch of one shared reader in turn; each runs the forward pass in its own
thread and writes its own files. Against a reader, a forward and a writer thread with queues between them this is
faster, since no stage waits for another, and there is nothing to tune. See docs/performance.md.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline import database, ledger, queries, selection, staging
from pipeline.context import Context, timed
from pipeline.dispositions import judge, only, reasons_for, with_reasons
from pipeline.drift.tally import Tallies
from pipeline.errors import QualityStop, UnreadableFile
from pipeline.features import row_fingerprints, to_matrix
from pipeline.lake import Partition
from pipeline.model.outputs import output_schema
from pipeline.predictions import FEW_VALUES, rejected_batch, rejected_schema, stored_batch, stored_schema
from pipeline.quality import guards
from pipeline.records import CheckResult, RunRecord, StageReport, State, now

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipeline.model.predictor import Predictor
    from pipeline.selection import Selection

log = logging.getLogger(__name__)

BATCH_VALUES = 1_500_000
"""Feature values in one batch: 122,880 rows of up to 12 features, fewer rows of wider ones."""
BATCH_ROWS = 122_880
ADOPTED = "__adopted_"

Outputs = Callable[[pa.RecordBatch, "NDArray[np.float32]"], pa.RecordBatch]
"""Gives the output columns of the rows to score, from those rows and their matrix (rows, features)."""


def score(ctx: Context, record: RunRecord) -> RunRecord:
    """The stage: stages a prediction for each row that needs one, and each rejected row with its reasons.

    Takes up what this run, or a crashed one, had staged. Raises QualityStop if too many rows are rejected; what is
    staged stays for inspection then. Raises InputChanged if a file of the plan is no longer there.
    """
    partition = Partition(record.job, record.ds, record.model.version)
    try:
        with timed("score") as clock, selection.select(ctx, record.plan, partition) as selected:
            staged = _Staging(ctx, record, selected)
            counts = staged.run()
            clock.rows = counts["scored"]
    except UnreadableFile:
        selection.check_input_unchanged(ctx, record.plan, record.ds)
        raise
    _stop_if_too_many(ctx, record, counts["quarantined"])
    stages = (*record.stages, staged.loading, clock.report.without(staged.loading))
    checks = (*(check for check in record.checks if check.suite != "model"), *staged.checks)
    return record.with_(state=State.scored, dispositions=dict(counts), stages=stages, checks=checks)


def preview(ctx: Context, selected: Selection) -> Counter[str]:
    """Counts what a run would do with each row, by disposition and reason. Runs no model and writes nothing."""
    with database.explained(selected.partition.folder, selected.reads):
        query = queries.load(selected.unselected or "select/unselected")
        unselected = selected.con.sql(query).aggregate("count(*)").fetchall()[0][0]
        counts = Counter(quarantined=int(unselected), duplicates=selected.term("ledger/duplicates").rows)
        counts["withdrawn"] = ledger.withdrawn(selected)
        signature = ctx.registry.resolve(ctx.job.model.name, selected.partition.version).signature
        selected.stored_view("staged", [])
        with _reader(selected, "select/to_score", signature.width) as reader:
            for batch in reader:
                matrix = to_matrix(batch, signature.features, signature.inputs)
                prints = row_fingerprints(batch, matrix, signature.features, signature.inputs)
                counts += judge(batch, matrix, prints, ctx.job.policy).counts()
                ctx.progress("plan", counts["scored"] + counts["unchanged"], selected.plan.candidates.rows)
    return counts


def _reader(selected: Selection, query: str, columns: int) -> pa.RecordBatchReader:
    """Reads in batches that fit the memory as a matrix of so many columns."""
    rows = max(8192, min(BATCH_ROWS, BATCH_VALUES // columns))
    return selected.con.sql(queries.load(query)).to_arrow_reader(rows)


def _stop_if_too_many(ctx: Context, record: RunRecord, quarantined: int) -> None:
    share = quarantined / record.plan.candidates.rows
    if share > ctx.job.policy.max_quarantined:
        raise QualityStop(
            f"{quarantined:,} of {record.plan.candidates.rows:,} rows of {record.ds} would be quarantined",
            where=ctx.lake.workspace.path(staging.folder_of(record)),
            expected=f"at most {ctx.job.policy.max_quarantined:.1%}",
            got=f"{share:.1%}",
            next_step="look at the rejected-*.parquet there; repair the input, or raise max_quarantined in job.toml",
        )


class _Staging:
    """The staging of one run: what is left from before is taken up, then the rest is scored."""

    def __init__(self, ctx: Context, record: RunRecord, selected: Selection) -> None:
        self.ctx, self.record, self.selected = ctx, record, selected
        self.folder = ctx.lake.workspace.path(staging.folder_of(record))
        self.manifest = ctx.registry.resolve(record.model.name, record.model.version)
        self.workers = ctx.job.engine.threads or os.cpu_count() or 1
        plan = record.plan
        self.stored = stored_schema(selected.schema, plan.key, plan.carry, output_schema(self.manifest.signature))
        self.rejected = rejected_schema(selected.schema, dict.fromkeys((*plan.key, *plan.carry, *plan.features)))
        self.loading = StageReport(stage="load", wall_s=0, cpu_s=0)
        """What it took to import torch and load the model, while the workers waited."""
        self.checks: tuple[CheckResult, ...] = ()
        """Of the loaded model."""
        self.tallies = Tallies(ctx, record, self.manifest)
        self._lock = threading.Lock()

    def run(self) -> Counter[str]:
        for path in staging.files(self.ctx, self.record, "rejected"):
            path.unlink()  # an earlier attempt's; they are judged again
        counts = Counter(scored=self._show_staged())
        seen_before = counts["scored"]
        counts += self._stage_unselected()
        for paths in staging.left_behind(self.ctx, self.record):
            if self._show_left_behind(paths):
                counts["adopted"] += self._stream("select/adoptable", _adopted)["scored"]
                self._show_staged()
        if counts["adopted"]:
            log.info("%s rows were staged by a run that did not finish: taken up", f"{counts['adopted']:,}")
            counts["scored"] += counts["adopted"]
        counts += self._stream("select/to_score", self._predicted, tallied=not (seen_before or counts["adopted"]))
        return counts

    @cached_property
    def _predictor(self) -> Predictor:
        with timed("load") as clock:
            import torch

            if self.workers > 1:
                torch.set_num_threads(1)  # each worker is a thread of its own
            predictor = self.ctx.registry.load(self.manifest, self.ctx.job.engine.device, self.ctx.job.model.trusted)
            self.checks = guards.golden_batch(self.ctx, self.record, self.manifest, predictor)
        self.loading = clock.report
        return predictor

    def _predicted(self, _rows: pa.RecordBatch, matrix: NDArray[np.float32]) -> pa.RecordBatch:
        with self._lock:
            predictor = self._predictor
        return predictor.predict_arrow(matrix, self.ctx.job.engine.batch_rows)

    def _show_staged(self) -> int:
        """Makes the view `staged` over what this run has staged so far, and returns the number of rows."""
        paths = [str(path) for path in staging.files(self.ctx, self.record, "scored")]
        self.selected.stored_view("staged", paths)
        return self.selected.term("ledger/staged").rows if paths else 0

    def _show_left_behind(self, paths: list[Path]) -> bool:
        """Makes the view `left_behind` over another run's staged files. Returns False if none can be trusted."""
        trusted = [str(path) for path in paths if staging.is_trustworthy(path, self.record, self.stored)]
        if trusted:
            outputs = [field.name for field in output_schema(self.manifest.signature)]
            self.selected.stored_view("left_behind", trusted, ["fingerprint", *outputs], prefix=ADOPTED)
        return bool(trusted)

    def _explained(self) -> AbstractContextManager[None]:
        return database.explained(self.folder, self.selected.reads)

    def _stage_unselected(self) -> Counter[str]:
        """Stages for the quarantine the rows without a key, with a key whose rows differ, or that break a rule."""
        rows = 0
        signature = self.manifest.signature
        if (query := self.selected.unselected) is not None:
            sink = _Sink(self, 0)
            try:
                with self._explained(), _reader(self.selected, query, self.manifest.signature.width) as reader:
                    for batch in reader:
                        matrix = to_matrix(batch, signature.features, signature.inputs)
                        known, policy = batch.column("reasons"), self.ctx.job.policy
                        reasons = with_reasons(known, matrix, signature.columns, policy, signature.categories)
                        sink.reject(batch, reasons)
                        rows += batch.num_rows
                sink.close()
            except BaseException:
                sink.abandon()
                raise
        return Counter(quarantined=rows)

    def _stream(self, query: str, outputs: Outputs, *, tallied: bool = False) -> Counter[str]:
        """Runs one query's rows through the workers, and returns the counts by disposition and reason.

        With `tallied` the rows are all there are, and what was counted of them is kept for the profile.
        """
        with self._explained(), _reader(self.selected, query, self.manifest.signature.width) as reader:
            source = _Source(reader, self.ctx, self.record.plan.candidates.rows)
            with ThreadPoolExecutor(self.workers, thread_name_prefix="score") as pool:
                sinks = [_Sink(self, index, tallied=tallied) for index in range(self.workers)]
                workers = [pool.submit(_work, source, sink, outputs) for sink in sinks]
                try:
                    counts = sum((worker.result() for worker in workers), Counter[str]())
                except BaseException:
                    source.stop()
                    raise
        self.tallies.keep()
        return counts


class _Source:
    """One reader, shared: each worker takes the next batch in turn."""

    def __init__(self, reader: pa.RecordBatchReader, ctx: Context, total: int) -> None:
        self._batches, self._ctx, self._total = iter(reader), ctx, total
        self._lock = threading.Lock()
        self._done = 0
        self._stopped = False

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        while (batch := self._next()) is not None:
            yield batch

    def _next(self) -> pa.RecordBatch | None:
        with self._lock:
            batch = None if self._stopped else next(self._batches, None)
            if batch is not None:
                self._done += batch.num_rows
                self._ctx.progress("score", self._done, self._total)
            return batch

    def stop(self) -> None:
        self._stopped = True


class _Sink:
    """What one worker writes: predictions, and rejected rows."""

    def __init__(self, staged: _Staging, worker: int, *, tallied: bool = False) -> None:
        self._tally = staged.tallies.one() if tallied else None
        self.staged, self.policy = staged, staged.ctx.job.policy
        self.signature = staged.manifest.signature
        self.run_id = staged.record.run_id
        metadata = staging.metadata(staged.record)
        self._scored = staging.Writer(
            staged.folder, "scored", worker, staged.stored, metadata, FEW_VALUES, staged.record.plan.key
        )
        self._rejected = staging.Writer(staged.folder, "rejected", worker, staged.rejected, metadata, ("run_id",))

    def take(self, batch: pa.RecordBatch, outputs: Outputs) -> Counter[str]:
        signature = self.signature
        matrix = to_matrix(batch, signature.features, signature.inputs)
        prints = row_fingerprints(batch, matrix, signature.features, signature.inputs)
        if self._tally is not None:
            self._tally.see_features(batch, matrix)
        judged = judge(batch, matrix, prints, self.policy)
        if ADOPTED + "fingerprint" in batch.schema.names:
            judged = only(judged, batch.column(ADOPTED + "fingerprint").to_numpy() == prints)
        if judged.rejected is not None:
            reasons = reasons_for(matrix[judged.rejected], signature.columns, self.policy, signature.categories)
            self.reject(batch.filter(pa.array(judged.rejected)), pa.array(reasons, pa.list_(pa.string())))
        if judged.to_score is not None:
            batch = batch.filter(pa.array(judged.to_score))
            matrix, prints = matrix[judged.to_score], prints[judged.to_score]
        if batch.num_rows:
            columns = outputs(batch, matrix)
            if self._tally is not None:
                self._tally.see_predictions(batch, columns)
            self._scored.write(stored_batch(self.staged.stored, batch, columns, judged, prints, self.run_id, now()))
        return judged.counts()

    def reject(self, rows: pa.RecordBatch, reasons: pa.Array) -> None:
        self._rejected.write(rejected_batch(self.staged.rejected, rows, reasons, self.run_id, now()))

    def close(self) -> None:
        self._scored.close()
        self._rejected.close()

    def abandon(self) -> None:
        self._scored.abandon()
        self._rejected.abandon()


def _work(source: _Source, sink: _Sink, outputs: Outputs) -> Counter[str]:
    """One worker. The first error of any stops them all; what is finished stays staged for the next run."""
    counts: Counter[str] = Counter()
    try:
        for batch in source:
            counts.update(sink.take(batch, outputs))
        sink.close()
    except BaseException:
        source.stop()
        sink.abandon()
        raise
    return counts


def _adopted(rows: pa.RecordBatch, _matrix: NDArray[np.float32]) -> pa.RecordBatch:
    """Returns the predictions that a crashed run had staged for these rows."""
    names = [name for name in rows.schema.names if name.startswith(ADOPTED)]
    return rows.select(names).rename_columns([name.removeprefix(ADOPTED) for name in names])
