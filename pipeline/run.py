"""The flow, in order: check, plan, validate the input, score, validate the output, profile, commit, drift, report.

Each stage is a function of the context and the run record, and what passes between stages lies in the lake, so that any
stage can run in a process of its own. A stage fills in the record; here it is written back.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pipeline import check, process
from pipeline.context import Context, peak_memory_bytes, timed
from pipeline.errors import CommitConflict, InputChanged, InputMissing, LakescoreError, QualityStop, TransientError
from pipeline.lake import Partition
from pipeline.records import RunRecord, State, new_run_id, now

if TYPE_CHECKING:
    from pipeline.model.manifest import Manifest

log = logging.getLogger(__name__)

ROUNDS = 3
"""How often a run plans again after the input changed or another run was faster."""

READ_QUICKLY = 20_000_000
"""Rows whose keys are read in about the time that the imports take."""

STAGES = ("plan", "validate_input", "score", "validate_output", "profile", "commit", "drift", "report")
"""The stages that have a run record, in order: functions of this module. `stages.py` and Airflow go by this list."""

_END: dict[type[BaseException], State] = {InputChanged: State.superseded, QualityStop: State.stopped}
"""The states of runs that ended otherwise than by a fault."""


@dataclass(frozen=True)
class Outcome:
    """What became of one day."""

    ds: str
    record: RunRecord | None = None
    """The run; of an up-to-date day, its last complete one."""
    up_to_date: bool = False
    error: LakescoreError | None = None

    @property
    def failed(self) -> bool:
        return self.error is not None


def run(ctx: Context, ds: str) -> list[Outcome]:
    """Brings a day, and the days to look back to, up to date. Raises what `ds` itself fails with."""
    first, *earlier = ctx.job.days(ds)
    with_input = set(ctx.lake.input_days(ctx.job.input.patterns.values())) if earlier else set()
    with _index_afterwards(ctx) as outcomes:
        for day in (first, *(day for day in earlier if day in with_input)):
            outcomes.append(run_day(ctx, day))
        return outcomes


def backfill(ctx: Context, days: Iterable[str]) -> Iterator[Outcome]:
    """Brings days up to date one by one, and goes on past a failed one."""
    with _index_afterwards(ctx) as outcomes:
        for ds in days:
            try:
                outcomes.append(run_day(ctx, ds))
            except LakescoreError as error:
                log.error("%s failed: %s", ds, error)  # noqa: TRY400 - the message says all; a traceback says less
                outcomes.append(Outcome(ds, error=error))
            yield outcomes[-1]


def run_day(ctx: Context, ds: str) -> Outcome:
    """Runs all stages for one day, unless nothing has changed since its last complete run.

    Raises CommitConflict or InputChanged if the day does not come to rest, and what the stages raise.
    """
    manifest = ctx.registry.resolve(ctx.job.model.name, ctx.job.model.version)
    last: TransientError | None = None
    for _ in range(ROUNDS):
        if (done := check.up_to_date(ctx, manifest, ds)) is not None:
            return Outcome(ds, repair(ctx, done), up_to_date=True)
        try:
            record = validate_input(ctx, plan(ctx, manifest, ds, goes_on=True))
            record = validate_output(ctx, score(ctx, record))
            record = commit(ctx, profile(ctx, record))
        except InputMissing:
            if ctx.job.policy.missing_input == "skip":
                return Outcome(ds, error=None)
            raise
        except InputChanged as error:
            last = error
            continue
        if record.state is State.complete:
            return Outcome(ds, report(ctx, drift(ctx, record)))
        record = report(ctx, record)
        last = CommitConflict(
            f"other runs keep changing {ds}", where=Partition(record.job, ds, manifest.version).folder
        )
    assert last is not None
    raise last


def plan(ctx: Context, manifest: Manifest, ds: str, run_id: str | None = None, *, goes_on: bool = False) -> RunRecord:
    """Freezes what a run is about, and writes its record.

    If the run goes on in this process, what the next stages need is imported meanwhile.
    """
    from pipeline import selection, unscored

    with timed("plan") as clock:
        files = unscored.check_input(ctx, manifest, ds)
        meanwhile = None
        if goes_on:
            found, stored = selection.rows_by_footers(ctx, files, ds, manifest.version)
            if modules := process.to_import(ctx, scores=found > stored):
                meanwhile = partial(process.import_meanwhile, modules)
            if meanwhile is not None and found > READ_QUICKLY:
                meanwhile()  # and all cores are for the plan, which takes longer
                meanwhile = None
        planned = selection.make_plan(ctx, manifest, ds, files, meanwhile)
        clock.rows = planned.candidates.rows
    record = RunRecord(
        run_id=run_id or new_run_id(ctx.lake.newest_run(ctx.job.name, ds)),
        job=ctx.job.name,
        ds=ds,
        state=State.planned,
        model=manifest.ref,
        job_digest=ctx.job.digest,
        job_config=ctx.job.config(),
        plan=planned,
        started_at=now(),
        stages=(clock.report,),
        host=socket.gethostname(),
        pid=os.getpid(),
    )
    ctx.lake.prepare()
    ctx.lake.write_record(record)
    return record


def validate_input(ctx: Context, record: RunRecord) -> RunRecord:
    if not ctx.job.quality.enabled:
        return record
    from pipeline.quality import stages

    return _stage(ctx, record, stages.validate_input)


def validate_output(ctx: Context, record: RunRecord) -> RunRecord:
    if not ctx.job.quality.enabled:
        return record
    from pipeline.quality import stages

    return _stage(ctx, record, stages.validate_output)


def score(ctx: Context, record: RunRecord) -> RunRecord:
    from pipeline import scoring

    return _stage(ctx, record, scoring.score)


def profile(ctx: Context, record: RunRecord) -> RunRecord:
    from pipeline.drift import profiling

    return _stage(ctx, record, profiling.profile)


def drift(ctx: Context, record: RunRecord) -> RunRecord:
    """Follows the commit: what is published stays, whatever happens here."""
    from pipeline.drift import stage

    return stage.drift(ctx, record)


def repair(ctx: Context, record: RunRecord) -> RunRecord:
    """Makes up for what a crash after the commit, or an older version of Lakescore, left out."""
    from pipeline.drift import stage

    return stage.repair(ctx, record) if stage.is_missing(ctx, record) else record


def commit(ctx: Context, record: RunRecord) -> RunRecord:
    from pipeline.commit import commit

    return _stage(ctx, record, commit)


def report(ctx: Context, record: RunRecord) -> RunRecord:
    from pipeline.report import stage

    return stage.report(ctx, record)


def index(ctx: Context) -> None:
    from pipeline.report import stage

    stage.index(ctx)


@contextmanager
def _index_afterwards(ctx: Context) -> Iterator[list[Outcome]]:
    """Makes the index of the reports anew once, after all days, if any has a new run. A failed run makes its own."""
    outcomes: list[Outcome] = []
    try:
        yield outcomes
    finally:
        if any(outcome.record is not None and not outcome.up_to_date for outcome in outcomes):
            index(ctx)


def _stage(ctx: Context, record: RunRecord, stage: Callable[[Context, RunRecord], RunRecord]) -> RunRecord:
    """Runs a stage and writes the record, also when it fails."""
    with _failure_recorded(ctx, record):
        done = stage(ctx, record)
    done = done.with_(peak_memory_bytes=peak_memory_bytes())
    if done.state in (State.planned, State.scored):
        ctx.lake.write_record(done)
    return done


@contextmanager
def _failure_recorded(ctx: Context, record: RunRecord) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        state = _END.get(type(error), State.failed)
        text = str(error) or type(error).__name__
        try:
            if ctx.lake.read_record(record.job, record.ds, record.run_id).ledger is None:  # else it has ended before
                checks = error.checks if isinstance(error, QualityStop) and error.checks else record.checks
                ended = record.with_(state=state, error=text, checks=checks, finished_at=now())
                ctx.lake.write_record(ended)
                report(ctx, ended)
                index(ctx)
        except LakescoreError as second:
            log.warning("the failure of run %s could not be recorded: %s", record.run_id, second.what)
        raise
