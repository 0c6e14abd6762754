"""The streaming pass: Arrow batches in, staged predictions out.

Equal workers (`streaming.py`), one a core, take the next batch of one shared reader in turn. Against a reader, a
forward and a writer thread with queues between them this is faster, since no stage waits for another, and there is
nothing to balance. See docs/performance.md.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import database, ledger, machine, queries, selection, staging, tuning, unscored
from pipeline.context import Context, timed
from pipeline.dispositions import judge, with_reasons
from pipeline.drift.tally import Tallies
from pipeline.errors import QualityStop, UnreadableFile
from pipeline.features import row_fingerprints, to_matrix
from pipeline.lake import Partition
from pipeline.model.outputs import output_schema
from pipeline.predictions import rejected_schema, stored_schema
from pipeline.quality import guards
from pipeline.records import CheckResult, EngineUsed, RunRecord, StageReport, State
from pipeline.streaming import ADOPTED, PARTS, Adopted, Outputs, Predicted, Sink, Source, Worker, work_all

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.model.cuda import Busy
    from pipeline.model.predictor import Predictor
    from pipeline.selection import Selection

log = logging.getLogger(__name__)

BATCH_VALUES = 1_500_000
"""Feature values in one batch: 122,880 rows of up to 12 features, fewer rows of wider ones."""
BATCH_ROWS = 122_880
SHOWN_EVERY_S = 0.25
"""What the workers do with their time: on CUDA it takes longer to count the more has been scored."""


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
            clock.rows, clock.busy, clock.engine = counts["scored"], staged.busy, staged.engine
    except UnreadableFile:
        unscored.check_input_unchanged(ctx, record.plan, record.ds)
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
    return selected.con.sql(queries.load(query)).to_arrow_reader(_batch_rows(columns))


def _batch_rows(columns: int) -> int:
    return max(8192, min(BATCH_ROWS, BATCH_VALUES // columns))


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
        self.threads = ctx.job.engine.threads or machine.usable_cores()
        plan = record.plan
        self.stored = stored_schema(selected.schema, plan.key, plan.carry, output_schema(self.manifest.signature))
        self.rejected = rejected_schema(selected.schema, dict.fromkeys((*plan.key, *plan.carry, *plan.features)))
        self.tallies = Tallies(ctx, record, self.manifest)
        self.predicted = Predicted(self._load)
        self.workers: list[Worker] = []
        self.checks: tuple[CheckResult, ...] = ()
        """Of the loaded model."""
        self.engine: EngineUsed | None = None
        """How it is run, once it is loaded."""
        self.gpu: Busy | None = None
        self._shown_at = float("-inf")

    @property
    def loading(self) -> StageReport:
        """Importing torch and loading the model: the wall seconds that all workers waited, and its own thread's CPU."""
        waited = min((worker.seconds["wait"] for worker in self.workers), default=0.0)
        return StageReport(stage="load", wall_s=waited, cpu_s=self.predicted.cpu_s)

    @property
    def busy(self) -> dict[str, float]:
        """The shares of the workers' time by what they did, apart from waiting for the model.

        On CUDA also `gpu`: the share of the longest worker's time in which the device was at work.
        """
        seconds = {part: sum(worker.seconds[part] for worker in self.workers) for part in PARTS if part != "wait"}
        total = sum(seconds.values())
        shares = {part: spent / total for part, spent in seconds.items()} if total else {}
        if self.gpu is not None and total:
            longest = max(sum(worker.seconds.values()) - worker.seconds["wait"] for worker in self.workers)
            shares["gpu"] = min(1.0, self.gpu.seconds() / longest)
        return shares

    def run(self) -> Counter[str]:
        for path in staging.files(self.ctx, self.record, "rejected"):
            path.unlink()  # an earlier attempt's; they are judged again
        counts = Counter(scored=self._show_staged())
        seen_before = counts["scored"]
        counts += self._stage_unselected()
        for paths in staging.left_behind(self.ctx, self.record):
            if self._show_left_behind(paths):
                counts["adopted"] += self._stream("select/adoptable", Adopted())["scored"]
                self._show_staged()
        if counts["adopted"]:
            log.info("%s rows were staged by a run that did not finish: taken up", f"{counts['adopted']:,}")
            counts["scored"] += counts["adopted"]
        counts += self._stream("select/to_score", self.predicted, tallied=not (seen_before or counts["adopted"]))
        return counts

    def _load(self) -> tuple[Predictor, int]:
        import torch

        torch.set_num_threads(1)  # each worker is a thread of its own
        engine, trusted = self.ctx.job.engine, self.ctx.job.model.trusted
        predictor = self.ctx.registry.load(
            self.manifest, engine.device, trusted, precision=engine.precision, compiled=engine.compile
        )
        self.checks = guards.golden_batch(self.ctx, self.record, self.manifest, predictor)
        rows, at_once = self.record.plan.candidates.rows, _batch_rows(self.manifest.signature.width)
        self.engine = tuning.choose(self.ctx, self.manifest, predictor, rows, at_once)
        if (gpu := predictor.busy) is not None:
            gpu.clear()  # of the golden batch, and of the measurement
            self.gpu = gpu
        for worker in self.workers[-self.threads :][self.engine.workers :]:
            worker.surplus = True
        return predictor, self.engine.batch_rows

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
            sink = self._sink(0)
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
            source = Source(reader, replace(self.ctx, progress=self._progress), self.record.plan.candidates.rows)
            workers = [self._worker(index, outputs, tallied=tallied) for index in range(self.threads)]
            self.workers += workers
            counts = work_all(workers, source)
        self.tallies.keep()
        return counts

    def _progress(self, stage: str, done: int, total: int) -> None:
        self.ctx.progress(stage, done, total)
        if (at := time.monotonic()) >= self._shown_at + SHOWN_EVERY_S:
            self._shown_at = at
            self.ctx.show_workers(lambda: self.busy)

    def _worker(self, index: int, outputs: Outputs, *, tallied: bool) -> Worker:
        tally = self.tallies.one() if tallied else None
        return Worker(self._sink(index), outputs, self.manifest.signature, self.ctx.job.policy, tally)

    def _sink(self, worker: int) -> Sink:
        metadata, plan = staging.metadata(self.record), self.record.plan
        return Sink(self.folder, worker, self.stored, self.rejected, metadata, plan.key, self.record.run_id)
