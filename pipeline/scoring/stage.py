"""The streaming pass: Arrow batches in, staged predictions out.

Equal workers (`workers.py`), one per core, take batches in turn from one shared reader. This is faster than a reader, a
forward and a writer thread with queues between them: no thread waits for another, and there is nothing to balance. See
docs/performance.md.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import machine
from pipeline.context import Context, timed
from pipeline.database import sql_files
from pipeline.database.connection import read_parquet, translated_errors
from pipeline.errors import QualityStop, UnreadableFile, counted
from pipeline.lake.layout import Partition
from pipeline.model.outputs import output_schema
from pipeline.profiles.stream_counts import Tallies
from pipeline.quality import guards, rejections
from pipeline.records import Addition, CheckResult, EngineUsed, RunRecord, StageReport, State, now
from pipeline.scoring import tuning
from pipeline.scoring.batch import REUSED, reasons_of_unselected
from pipeline.scoring.workers import PARTS, ModelOutputs, Outputs, ReusedOutputs, Sink, Source, Worker, work_all
from pipeline.selecting import pair_search
from pipeline.selecting.input import check_input_unchanged
from pipeline.selecting.triage import WITHDRAWN
from pipeline.selecting.views import select
from pipeline.selecting.withdrawn import to_mark
from pipeline.staging.adopting import is_trustworthy, left_behind
from pipeline.staging.folders import complete_files, staged_files, staging_folder
from pipeline.staging.rows import FEW_VALUES, rejected_schema, stored_schema, withdrawn_batch
from pipeline.staging.writer import Writer, file_metadata
from pipeline.storage.parquet import ROW_GROUP

if TYPE_CHECKING:
    import pyarrow as pa
    from duckdb import DuckDBPyRelation as Relation

    from pipeline.model.cuda import Busy
    from pipeline.model.manifest import Manifest
    from pipeline.model.predictor import Predictor
    from pipeline.selecting.views import Selection

log = logging.getLogger(__name__)

Load = Callable[[Context, "Manifest"], "Predictor"]

SHOWN_EVERY_S = 0.25
"""Minimum seconds between updates of the workers' shares of time: on CUDA, each takes longer as more is scored."""


def score(ctx: Context, record: RunRecord) -> Addition:
    """Stage: stages a prediction for each row that needs one, and each rejected row with its reasons.

    Reuses what this run, or a crashed one, had staged. Raises QualityStop if too many rows are rejected; the staged
    files then stay for inspection. Raises InputChanged if a file cannot be read since the input changed after the plan.
    """
    partition = Partition.of(record)
    try:
        with timed("score") as clock:
            with select(ctx, record.plan, partition, pairs=pair_search.find(ctx, record.plan, record.ds)) as selected:
                staged = Staging(ctx, record, selected, staging_folder(record), left_behind(ctx, record))
                counts = staged.run()
            clock.rows, clock.busy, clock.engine = counts["scored"], staged.busy, staged.engine
    except UnreadableFile:
        check_input_unchanged(ctx, record.plan, record.ds)
        raise
    stop_if_too_many(ctx, record, counts["quarantined"])
    return Addition(
        {"state": State.scored, "dispositions": dict(counts), "carried_left": counts["carried_left"]},
        stages=(staged.loading, clock.report.without(staged.loading)),
        checks={"model": staged.checks},
    )


def load_model(ctx: Context, manifest: Manifest) -> Predictor:
    """Loads a model as the job says. Raises the errors of `Registry.load`."""
    engine, trusted = ctx.job.engine, ctx.job.model.trusted
    return ctx.registry.load(manifest, engine.device, trusted, precision=engine.precision, compiled=engine.compile)


def stop_if_too_many(ctx: Context, record: RunRecord, quarantined: int) -> None:
    """Raises QualityStop if more rows of a day are rejected than the job allows."""
    share = quarantined / record.plan.candidates.rows
    if share > ctx.job.policy.max_quarantined:
        staged = list(map(str, staged_files(ctx, record, "rejected")))
        reasons = rejections.of_files(ctx.lake, staged, record.plan.key)
        advice = rejections.advice(reasons, record.plan.key)
        raise QualityStop(
            f"{quarantined:,} of {counted(record.plan.candidates.rows, 'row')} of {record.ds} would be quarantined",
            where=ctx.lake.workspace.path(staging_folder(record)),
            expected=f"at most {ctx.job.policy.max_quarantined:.1%}",
            got=f"{share:.1%}: {rejections.listed(reasons)}",
            next_step=f"lakescore quarantine list --job {record.job} shows some keys; "
            f"{advice or 'correct the input'}, or raise max_quarantined in job.toml",
        )


def shares_of(seconds: Mapping[str, float]) -> dict[str, float]:
    """Returns the shares of a time by activity, 0 to 1; nothing if no time has passed."""
    total = sum(seconds.values())
    return {part: spent / total for part, spent in seconds.items()} if total else {}


class Staging:
    """The staging of selected rows: reuses what earlier attempts and crashed runs left, then scores the rest."""

    def __init__(
        self,
        ctx: Context,
        record: RunRecord,
        selected: Selection,
        place: str,
        left: Iterable[list[Path]],
        *,
        load: Load = load_model,
        first_worker: int = 0,
        finds_edges: bool = True,
    ) -> None:
        """`place` is the key of the folder to write to, `left` are the files that each crashed run has staged.

        `first_worker` is the number of the first worker, which is a part of the names of its files. `finds_edges` tells
        whether the bin edges of a large first day are found here: each bucket would find others.
        """
        self.ctx, self.record, self.selected = ctx, record, selected
        self.folder, self.left = ctx.lake.workspace.path(place), left
        self._load_model, self._first_worker, self._finds_edges = load, first_worker, finds_edges
        self.manifest = ctx.manifest_of(record)
        self.threads = ctx.job.engine.threads or machine.usable_cores()
        plan = record.plan
        self.stored = stored_schema(selected.schema, plan.key, plan.carry, output_schema(self.manifest.signature))
        self.rejected = rejected_schema(selected.schema, dict.fromkeys((*plan.key, *plan.carry, *plan.features)))
        self.tallies = Tallies(ctx, record, self.manifest, place)
        self.predicted = ModelOutputs(self._load)
        self.workers: list[Worker] = []
        self.checks: tuple[CheckResult, ...] = ()
        """Results of the checks of the loaded model."""
        self.engine: EngineUsed | None = None
        """How the model is run; set once it is loaded."""
        self.gpu: Busy | None = None
        self._shown_at = float("-inf")

    @property
    def loading(self) -> StageReport:
        """The report of importing torch and loading the model: how long all workers waited, and the loader's CPU."""
        waited = min((worker.seconds["wait"] for worker in self.workers), default=0.0)
        return StageReport(stage="load", wall_s=waited, cpu_s=self.predicted.cpu_s)

    @property
    def seconds(self) -> dict[str, float]:
        """The workers' time by activity, apart from waiting for the model."""
        return {part: sum(worker.seconds[part] for worker in self.workers) for part in PARTS if part != "wait"}

    @property
    def busy(self) -> dict[str, float]:
        """The shares of the workers' time by activity, 0 to 1, apart from waiting for the model.

        On CUDA also `gpu`: the share of the longest-running worker's time in which the device was busy.
        """
        shares = shares_of(self.seconds)
        if self.gpu is not None and shares:
            longest = max(sum(worker.seconds.values()) - worker.seconds["wait"] for worker in self.workers)
            shares["gpu"] = min(1.0, self.gpu.seconds() / longest)
        return shares

    def run(self) -> Counter[str]:
        for path in (*self._files("rejected"), *self._files(WITHDRAWN)):
            path.unlink(missing_ok=True)  # of an earlier attempt; these rows are found again
        counts = Counter(scored=self._count_staged())
        seen_before = counts["scored"]
        counts += self._stage_unselected()
        for paths in self.left:
            if (rows := self._adoptable(paths)) is not None:
                counts["adopted"] += self._stream(rows, ReusedOutputs())["scored"]
        if counts["adopted"]:
            log.info("%s rows were staged by a run that did not finish: taken up", f"{counts['adopted']:,}")
            counts["scored"] += counts["adopted"]
        seen_before += counts["adopted"]
        if (republished := self._to_republish()) is not None:
            seen_before += (carried := self._stream(republished, ReusedOutputs())["scored"])
            counts["scored"] += carried
        if self._finds_edges and not seen_before:
            with self._translated_errors():
                self.tallies.take_sample(self.selected.con, self.selected.rows)
        counts += self._stream(self.selected.to_score(self._staged()), self.predicted, tallied=not seen_before)
        counts[WITHDRAWN] += self._stage_withdrawn()
        return +counts

    def _load(self) -> tuple[Predictor, int]:
        import torch

        torch.set_num_threads(1)  # each worker runs the model in its own thread
        predictor = self._load_model(self.ctx, self.manifest)
        self.checks = guards.golden_batch(self.ctx, self.record, self.manifest, predictor)
        rows, at_once = self.record.plan.candidates.rows, self.ctx.batch_rows(self.manifest.signature.width)
        self.engine = tuning.choose(self.ctx, self.manifest, predictor, rows, at_once)
        batch_rows = self.engine.batch_rows
        self.tallies.score_sample(lambda matrix: predictor.predict_arrow(matrix, batch_rows))
        if (gpu := predictor.busy) is not None:
            gpu.clear()  # the golden batch, the measurement and the sample do not count
            self.gpu = gpu
        for worker in self.workers[-self.threads :][self.engine.workers :]:
            worker.surplus = True
        return predictor, batch_rows

    def _staged(self) -> list[str]:
        """Returns the paths of the files with predictions that this run has staged so far."""
        return [str(path) for path in self._files("scored")]

    def _files(self, kind: str) -> list[Path]:
        return complete_files(self.folder, kind)

    def _count_staged(self) -> int:
        paths = self._staged()
        if not paths:
            return 0
        self.selected.stored_view("staged", paths)
        return self.selected.term("scoring/staged").rows

    def _adoptable(self, paths: list[Path]) -> Relation | None:
        """Returns the rows to score that another run has staged in sound files; None if no file is sound."""
        trusted = [str(path) for path in paths if is_trustworthy(path, self.record, self.stored)]
        if not trusted:
            return None
        outputs = [field.name for field in output_schema(self.manifest.signature)]
        self.selected.stored_view("staged", self._staged())
        self.selected.stored_view("left_behind", trusted, ["fingerprint", *outputs], prefix=REUSED)
        return self.selected.con.sql(sql_files.load("scoring/adoptable"))

    def _to_republish(self) -> Relation | None:
        """Returns the rows of which carried values have changed; None if the job leaves them, or nothing is stored."""
        plan, stored = self.record.plan, self.selected.base
        if self.ctx.job.policy.carried_change == "leave" or not plan.carry or not stored:
            return None
        outputs = [field.name for field in output_schema(self.manifest.signature)]
        if not set(outputs) <= set(read_parquet(self.selected.con, stored).columns):
            return None  # nothing is stored by this model
        self.selected.stored_view("staged", self._staged())
        self.selected.stored_view("stored_rows", stored, ["fingerprint", "revision", *outputs], prefix=REUSED)
        return self.selected.con.sql(sql_files.load("scoring/to_republish"))

    def _stage_withdrawn(self) -> int:
        """Stages a row without outputs for each withdrawn key, if the job marks them; returns their number."""
        if self.ctx.job.policy.withdrawn == "keep" or not self.selected.base:
            return 0
        with self._translated_errors(), to_mark(self.selected).to_arrow_reader(ROW_GROUP) as rows:
            worker, metadata = self._first_worker, file_metadata(self.record)
            writer = Writer(self.folder, WITHDRAWN, worker, rows.schema, metadata, FEW_VALUES, self.record.plan.key)
            try:
                for batch in rows:
                    writer.write(withdrawn_batch(batch, self.record.run_id, now()))
                writer.close()
            except BaseException:
                writer.abandon()
                raise
        return writer.rows

    def _translated_errors(self) -> AbstractContextManager[None]:
        return translated_errors(self.folder, self.selected.reads)

    def _stage_unselected(self) -> Counter[str]:
        """Stages for quarantine the rows that have no key, share a key but differ, or break a rule."""
        rows = 0
        signature, policy = self.manifest.signature, self.ctx.job.policy
        if (unselected := self.selected.unselected) is not None:
            sink = self._sink(0)
            try:
                with self._translated_errors(), self._open(unselected) as reader:
                    for batch in reader:
                        sink.reject(batch, reasons_of_unselected(batch, signature, policy))
                        rows += batch.num_rows
                sink.close()
            except BaseException:
                sink.abandon()
                raise
        return Counter(quarantined=rows)

    def _stream(self, rows: Relation, outputs: Outputs, *, tallied: bool = False) -> Counter[str]:
        """Runs rows through the workers, and returns their number by disposition and reason.

        `tallied`: these are all rows of the day, and their histograms are kept for the profile.
        """
        with self._translated_errors(), self._open(rows) as reader:
            ctx, pairs = replace(self.ctx, progress=self._progress), self.selected.pairs
            complete = pairs.complete if pairs is not None else None
            source = Source(reader, ctx, self.record.plan.candidates.rows, complete)
            workers = [self._worker(index, outputs, tallied=tallied) for index in range(self.threads)]
            self.workers += workers
            counts = work_all(workers, source)
        self.tallies.keep()
        return counts

    def _open(self, rows: Relation) -> pa.RecordBatchReader:
        return rows.to_arrow_reader(self.ctx.batch_rows(self.manifest.signature.width))

    def _progress(self, stage: str, done: int, total: int) -> None:
        self.ctx.progress(stage, done, total)
        if (at := time.monotonic()) >= self._shown_at + SHOWN_EVERY_S:
            self._shown_at = at
            self.ctx.show_workers(lambda: self.busy)

    def _worker(self, index: int, outputs: Outputs, *, tallied: bool) -> Worker:
        tally = self.tallies.one() if tallied else None
        return Worker(self._sink(index), outputs, self.manifest.signature, self.ctx.job.policy, tally)

    def _sink(self, worker: int) -> Sink:
        metadata, plan = file_metadata(self.record), self.record.plan
        number = self._first_worker + worker
        return Sink(self.folder, number, self.stored, self.rejected, metadata, plan.key, self.record.run_id)
