"""The stage that scores a day: as a whole in the threads of this process, or in buckets of keys by an engine.

    split      each task writes the rows of a part of a file by `hash(key) % buckets`: splitting.py
    score      each task selects, scores and stages the rows of one bucket, and checks its ledger: bucket.py
    here       what the tasks have returned is added up, checked, and linked into the staging of the run

From there on, a run is the same whatever has scored it. Only what a task returns counts: a task may have run twice.
"""

from __future__ import annotations

import logging
import secrets
from collections import Counter, defaultdict

import duckdb

from pipeline.buckets.bucket import KINDS, Bucket, Scored, finished, score_bucket
from pipeline.buckets.choosing import buckets_of, is_split, of_task, open_engine
from pipeline.buckets.exchange import Exchange
from pipeline.buckets.splitting import Source, Splitted, split, tasks
from pipeline.buckets.work import Result, Work, check_machines, check_same_hash
from pipeline.context import Context, timed
from pipeline.engines.contract import Engine
from pipeline.errors import LedgerImbalance, UnreadableFile
from pipeline.histograms.counting import Counting
from pipeline.profiles.stage import forget_stream_counts, keep_stream_counts, stream_counts
from pipeline.records import Addition, EngineUsed, RunRecord, StageReport, State, Term
from pipeline.scoring import stage as as_a_whole
from pipeline.selecting.input import check_input_unchanged
from pipeline.staging.folders import complete_files, staging_folder

log = logging.getLogger(__name__)

Parts = dict[Source, dict[int, list[str]]]
"""Keys of the files with the rows of each source, by bucket."""


def score(ctx: Context, record: RunRecord) -> Addition:
    """Stage: stages a prediction for each row that needs one, and each rejected row with its reasons.

    Takes up what crashed runs have finished. Raises the errors of `scoring/stage.py`, which scores days that are not
    split; WorkerLost if processes keep dying; LedgerImbalance if the buckets do not add up to the day.
    """
    if not is_split(ctx, record.plan.candidates.rows):
        return as_a_whole.score(ctx, record)
    columns = len({*record.plan.key, *record.plan.carry, *record.plan.features})
    try:
        with open_engine(ctx) as engine:
            if ctx.job.engine.name == "spark":
                check_machines(engine, ctx, record)
            buckets = buckets_of(ctx, record.plan.candidates.rows, columns, engine.slots)
            work = Work.of(of_task(ctx, engine.slots), record, buckets)
            return _Day(ctx, work, engine).score()
    except UnreadableFile:
        check_input_unchanged(ctx, record.plan, record.ds)
        raise


class _Day:
    def __init__(self, ctx: Context, work: Work, engine: Engine) -> None:
        self.ctx, self.work, self.engine, self.record = ctx, work, engine, work.record
        self.exchange = Exchange(ctx)
        self.place = staging_folder(work.record)
        self.folder = ctx.lake.workspace.path(self.place)

    def score(self) -> Addition:
        splits = f"{self.place}/split-{secrets.token_hex(4)}"
        for kind in KINDS:
            for path in complete_files(self.folder, kind):
                path.unlink(missing_ok=True)  # of an earlier process; what it has finished lies in `attempts/`, too
        forget_stream_counts(self.ctx, self.place)
        with timed("score") as clock:
            try:
                splitted, buckets = self._split(splits)
                scored = self._score(buckets)
            finally:
                self.exchange.remove(splits)
            self._check(scored)
            counts = sum((Counter(each.counts) for each in scored), Counter[str]())
            self.exchange.take([key for each in scored for key in each.files], self.folder)
            self._keep_profile(scored)
            clock.rows, clock.busy, clock.engine = counts["scored"], _busy(scored), _engine(scored, self.engine.slots)
        if counts["adopted"]:
            log.info("%s rows were staged by a run that did not finish: taken up", f"{counts['adopted']:,}")
        as_a_whole.stop_if_too_many(self.ctx, self.record, counts["quarantined"])
        loading = StageReport(stage="load", wall_s=0.0, cpu_s=sum(each.load_cpu_s for each in scored))
        results: list[Result] = [*splitted, *scored]
        spent = clock.report.cpu_s + sum(each.cpu_s for each in results) - loading.cpu_s
        report = clock.report.model_copy(update={"cpu_s": spent, "buckets": self.work.buckets})
        return Addition(
            {"state": State.scored, "dispositions": dict(+counts), "carried_left": counts["carried_left"]},
            stages=(loading, report),
            checks={"model": next((each.checks for each in scored if each.checks), ())},
            peak_memory_bytes=max(each.peak_memory_bytes for each in results),
        )

    def _split(self, place: str) -> tuple[list[Splitted], list[Bucket]]:
        """Splits the day; returns what the tasks have returned, and a task for each bucket with rows."""
        plan = tasks(self.ctx, self.work, place)
        done: list[Splitted] = []
        parts: Parts = defaultdict(lambda: defaultdict(list))
        rows: Counter[Source] = Counter()
        for number, text in self.engine.map(split, [task.model_dump_json() for task in plan.tasks]):
            found = Splitted.model_validate_json(text)
            source = plan.tasks[number].source
            done.append(found)
            rows[source] += found.rows
            for number_of_bucket, keys in found.files.items():
                parts[source][number_of_bucket] += keys
            self.ctx.progress("split", rows.total(), sum(plan.rows.values()))
        check_same_hash(done)
        if rows != Counter(plan.rows):
            check_input_unchanged(self.ctx, self.record.plan, self.record.ds)
            raise _imbalance(self.record, "rows were lost when the day was split", plan.rows, rows)
        left = finished(self.exchange, self.work)
        numbers = sorted({number for of_source in parts.values() for number in of_source})

        def bucket(number: int) -> Bucket:
            files = {each.value: (schema, *parts[each][number]) for each, schema in plan.schemas.items()}
            return Bucket(work=self.work, number=number, files=files, left=tuple(left.get(number, ())))

        return done, [bucket(number) for number in numbers]

    def _score(self, buckets: list[Bucket]) -> list[Scored]:
        done: list[Scored] = []
        rows = 0
        for _, text in self.engine.map(score_bucket, [task.model_dump_json() for task in buckets]):
            done.append(Scored.model_validate_json(text))
            rows += done[-1].ledger.candidates.rows
            self.ctx.progress("score", rows, self.record.plan.candidates.rows)
        check_same_hash(done)
        return sorted(done, key=lambda each: each.number)

    def _check(self, scored: list[Scored]) -> None:
        """Raises LedgerImbalance if the candidates of the buckets are not those of the day."""
        plan = self.record.plan
        found = sum((each.ledger.candidates for each in scored), Term())
        same = found == plan.candidates if plan.duckdb == duckdb.__version__ else found.rows == plan.candidates.rows
        if not same:
            raise _imbalance(self.record, "the buckets do not add up to the day", plan.candidates, found)

    def _keep_profile(self, scored: list[Scored]) -> None:
        """Adds up the counts of the buckets, if each has counted all its rows."""
        keys = [each.profile for each in scored if each.profile is not None]
        if len(keys) < len(scored):
            return
        total: Counting | None = None
        for key in keys:
            content = self.exchange.storage.read(key)
            assert content is not None, key
            counting = stream_counts(self.ctx, content)
            if total is None:
                total = Counting(counting.specs, self.ctx.job.drift.slices)
            total.add(counting)
        if total is not None:
            keep_stream_counts(self.ctx, self.place, self.record.run_id, total)


def _busy(scored: list[Scored]) -> dict[str, float]:
    seconds = sum((Counter(each.seconds) for each in scored), Counter[str]())
    return as_a_whole.shares_of(seconds)


def _engine(scored: list[Scored], slots: int) -> EngineUsed | None:
    """Returns how the model was run by the first bucket that needed it."""
    found = next((each.engine for each in scored if each.engine is not None), None)
    return None if found is None else found.model_copy(update={"workers": slots})


def _imbalance(record: RunRecord, what: str, expected: object, got: object) -> LedgerImbalance:
    return LedgerImbalance(
        f"run {record.run_id} of {record.ds}: {what}; nothing was committed",
        expected=expected,
        got=got,
        next_step="run again; if it happens again, report this bug of Lakescore",
    )
