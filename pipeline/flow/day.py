"""Brings days up to date: every stage of a day in one process, in the order of `stage_list.py`.

A stage is a function of the context and the run record; everything else that passes between stages is in the lake. What
a stage returns is added to the record here.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

from pipeline import machine
from pipeline.context import Context, peak_memory_bytes, timed
from pipeline.errors import (
    CommitConflict,
    InputChanged,
    InputMissing,
    LakescoreError,
    OutOfMemory,
    QualityStop,
    RunEnded,
    TransientError,
)
from pipeline.flow import stage_list
from pipeline.flow.stage_list import Runs, Stage
from pipeline.job.config import Job
from pipeline.lake import skips, unplanned
from pipeline.lake.layout import Partition
from pipeline.lake.liveness import beating
from pipeline.records import Addition, RunRecord, State
from pipeline.selecting.up_to_date import find_valid_run
from pipeline.staging.folders import staging_folder

log = logging.getLogger(__name__)

T = TypeVar("T")

ROUNDS = 3
"""Maximum number of attempts at a day, if its input changes or another run is faster."""
PLAN_AGAIN = (State.overtaken, State.superseded)
"""Final states of a run after which the day needs a new plan."""
_END: dict[type[BaseException], State] = {InputChanged: State.superseded, QualityStop: State.stopped}
"""Final state of a run by the error that ended it; `failed` for any other error."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of one day."""

    ds: str
    record: RunRecord | None = None
    """Record of the day's run; for an up-to-date day, of its last complete run."""
    up_to_date: bool = False
    error: LakescoreError | None = None
    skipped: str | None = None
    """Why the day was skipped: there is no input, or it has no rows."""
    first_skip: bool = False
    """Whether this is the first run to find the day like that."""

    @property
    def failed(self) -> bool:
        return self.error is not None

    def left(self, job: Job) -> list[str]:
        """Returns the stages that failed after the commit, and that the next run of the day repeats."""
        record = self.record
        return [each.name for each in stage_list.of(job) if each.repeated and record and each.is_due(record)]


def run(ctx: Context, ds: str) -> list[Outcome]:
    """Brings a day, and the days that the job looks back to, up to date. Raises the first error of a day."""
    with _index_afterwards(ctx) as outcomes:
        outcomes.append(run_day(ctx, ds))
        for day in days_to_look_back_to(ctx, ds):
            outcomes.append(run_day(ctx, day))
        return outcomes


def backfill(ctx: Context, days: Iterable[str]) -> Iterator[Outcome]:
    """Brings days up to date one by one, and continues after a failed day."""
    with _index_afterwards(ctx) as outcomes:
        for ds in days:
            try:
                outcomes.append(run_day(ctx, ds))
            except LakescoreError as error:
                state = State.stopped if isinstance(error, QualityStop) else State.failed
                log.error("%s %s: %s", ds, state, error)  # noqa: TRY400 - the message says all, without a traceback
                outcomes.append(Outcome(ds, error=error))
            yield outcomes[-1]


def days_to_look_back_to(ctx: Context, ds: str) -> list[str]:
    """Returns the earlier days with input that the job looks at again, latest first."""
    return with_input(ctx, ctx.job.days(ds)[1:])


def with_input(ctx: Context, days: list[str]) -> list[str]:
    """Returns those of the days that have input; all of them if their paths do not tell."""
    patterns = [pattern for pattern in ctx.job.patterns.values() if pattern.dated]
    if not patterns or not days:
        return days
    known = set(ctx.lake.input_days(patterns))
    return [day for day in days if day in known]


def run_day(ctx: Context, ds: str) -> Outcome:
    """Runs all stages for one day, unless nothing has changed since its last complete run.

    Raises CommitConflict or InputChanged if the day still conflicts after ROUNDS attempts, and what the stages raise.
    """

    def attempt() -> Outcome:
        if (known := without_plan(ctx, ds)) is not None:
            return known
        with ctx.sharing() as sharing:
            return Outcome(ds, advance(sharing, begin(sharing, ds, goes_on=True)))

    try:
        return until_it_holds(attempt)
    except InputMissing as error:
        return skip(ctx, ds, error)


def begin(ctx: Context, ds: str, run_id: str | None = None, *, goes_on: bool) -> RunRecord:
    """Plans a run of a day, and returns its record. If that fails, the lake has a note of it, as there is no record."""
    from pipeline.selecting.plan import plan

    with unplanned.noted(ctx.lake, ctx.job.name, ctx.job.patterns, ds):
        return within_memory(ctx, lambda ctx: plan(ctx, ds, run_id, goes_on=goes_on))


def skip(ctx: Context, ds: str, error: InputMissing) -> Outcome:
    """Notes that a day without rows is skipped, or raises the error if the job does not skip such days."""
    if not ctx.job.policy.skips(error):
        raise error
    files = ctx.lake.input_files(ctx.job.patterns, ds)
    return Outcome(ds, skipped=error.what, first_skip=skips.mark(ctx.lake, ctx.job.name, ds, error.what, files))


def without_plan(ctx: Context, ds: str, *, repeats: bool = True) -> Outcome | None:
    """Returns the outcome of a day whose stored results still hold; None if it has to be planned.

    If the views show them, the day is up to date. If the job has gone back to a model that they are of, a new run makes
    them current again. Stages that repeat until they succeed are left to others without `repeats`.
    """
    with unplanned.noted(ctx.lake, ctx.job.name, ctx.job.patterns, ds):
        manifest = ctx.manifest()
        found = find_valid_run(ctx, manifest, ds)
    if found is None:
        return None
    if not found.up_to_date:
        from pipeline.committing.renewing import renew

        return Outcome(ds, advance(ctx, renew(ctx, manifest.ref, found.record), repeats=repeats))
    record = found.record
    for stage in stage_list.running(ctx.job, Runs.up_to_date):
        record = run_stage(ctx, stage, record)
    left = [stage for stage in stage_list.of(ctx.job) if stage.repeated and stage.is_due(record)] if repeats else []
    for stage in (*left, *(stage_list.running(ctx.job, Runs.at_the_end) if left else ())):
        record = run_stage(ctx, stage, record)
    return Outcome(ds, record, up_to_date=True)


def until_it_holds(attempt: Callable[[], Outcome]) -> Outcome:
    """Repeats an attempt until its plan holds to the end: no input has changed, and no other run was faster.

    Raises CommitConflict or InputChanged if the plan still does not hold after ROUNDS attempts.
    """
    last: TransientError | None = None
    for _ in range(ROUNDS):
        try:
            outcome = attempt()
        except InputChanged as error:
            last = error
            continue
        record = outcome.record
        if record is None or record.state not in PLAN_AGAIN:
            return outcome
        last = CommitConflict(f"other runs keep changing {outcome.ds}", where=Partition.of(record).folder)
    assert last is not None
    raise last


def advance(ctx: Context, record: RunRecord, last: str | None = None, *, repeats: bool = True) -> RunRecord:
    """Runs the stages that a run still needs, up to the stage `last` if given. Returns the run's record.

    A stage that repeats until it succeeds is the last one or left to others; as the last one, it raises its errors.
    """
    with beating(ctx.lake, record):
        for stage in stage_list.of_run(ctx.job, last):
            alone = stage.repeated and stage.name == last
            if stage.is_due(record) and (alone or not stage.repeated or (repeats and last is None)):
                record = run_stage(ctx, stage, record, raises=alone)
        return record


def run_stage(ctx: Context, stage: Stage, record: RunRecord, *, raises: bool = False) -> RunRecord:
    """Runs one stage of a run, adds its results to the run's record, and returns the record as stored afterwards.

    If the stage fails, the run ends if the stage is fatal; otherwise the failure becomes a warning, and is raised only
    with `raises`.
    """
    if not stage.fatal:
        return _run_not_fatal(ctx, stage, record, raises=raises)
    with _failure_recorded(ctx, record, stage.name), _named_errors(ctx, record):
        addition: Addition = within_memory(ctx, lambda ctx: stage.function()(ctx, record))
        return ctx.lake.records.add(
            record, replace(addition, peak_memory_bytes=max(addition.peak_memory_bytes, peak_memory_bytes()))
        )


def within_memory(ctx: Context, work: Callable[[Context], T]) -> T:
    """Does some work. If DuckDB runs out of memory, does it once more with one thread, in small batches.

    Raises OutOfMemory if that is too much, too.
    """
    try:
        return work(ctx)
    except OutOfMemory as error:
        if ctx.frugal:
            raise
        log.warning("%s; once more with one thread and small batches", _in_one_line(error))
    return work(replace(ctx, frugal=True))


def make_index(ctx: Context) -> None:
    """Runs the stages for the whole lake. Errors are only logged: the next run makes the index again."""
    for stage in stage_list.running(ctx.job, Runs.on_the_lake):
        try:
            stage.function()(ctx)
        except Exception as error:  # noqa: BLE001 - it belongs to no run
            log.warning("%s: %s", stage.failure, _in_one_line(error))


def _run_not_fatal(ctx: Context, stage: Stage, record: RunRecord, *, raises: bool = False) -> RunRecord:
    """Runs a stage whose failure must not cost the predictions: its error becomes a warning of the run."""
    problem, addition, failure = "", Addition(), None
    with timed(stage.name) as clock:
        try:
            addition = within_memory(ctx, lambda ctx: stage.function()(ctx, record))
        except Exception as error:  # noqa: BLE001 - as above
            failure = error
            problem = f"{stage.failure}: {_in_one_line(error)}"
            log.warning("run %s: %s", record.run_id, problem)
    if problem:
        measured = stage.runs in (Runs.before_commit, Runs.after_commit) and not stage.repeated
        addition = Addition(
            stages=(clock.report,) if measured else (),
            warnings=(problem,),
            replaced_warnings=re.compile(f"^{re.escape(stage.failure or '')}: "),
        )
    if stage.runs is Runs.before_commit:
        addition = replace(addition, peak_memory_bytes=peak_memory_bytes())
    try:
        record = ctx.lake.records.add(record, addition)
    except LakescoreError as error:
        if stage.runs is Runs.before_commit:
            raise
        log.warning("run %s: the results of stage %s could not be recorded: %s", record.run_id, stage.name, error.what)
    if failure is not None and raises:
        for after in stage_list.running(ctx.job, Runs.at_the_end):
            run_stage(ctx, after, record)
        raise failure
    return record


@contextmanager
def _named_errors(ctx: Context, record: RunRecord) -> Iterator[None]:
    """Names the cause of an error of whichever library: no memory, or the run's staged files were removed meanwhile."""
    try:
        yield
    except Exception as error:
        folder = ctx.lake.workspace.path(staging_folder(record))
        if isinstance(error, TransientError | OutOfMemory):
            raise
        if (refused := machine.out_of_memory(error)) is not None:
            raise refused from error
        if str(folder) in f"{error} {getattr(error, 'filename', None)}" and not folder.exists():
            raise RunEnded(
                f"the staged files of run {record.run_id} were removed while it was active",
                where=folder,
                got=_in_one_line(error),
                next_step="run again; do not remove files in .staging by hand: lakescore clean removes old ones",
            ) from error
        raise


@contextmanager
def _failure_recorded(ctx: Context, record: RunRecord, stage: str) -> Iterator[None]:
    """Ends a run whose stage fails, and makes its page."""
    try:
        yield
    except BaseException as error:
        state = _END.get(type(error), State.failed)
        checks = error.checks if isinstance(error, QualityStop) else ()
        text = str(error) or type(error).__name__
        try:
            ended = ctx.lake.records.end(
                record, state, text, checks, stage=stage, peak_memory_bytes=peak_memory_bytes()
            )
            if ended.error == text:  # otherwise it had ended before
                for after in stage_list.running(ctx.job, Runs.at_the_end):
                    run_stage(ctx, after, ended)
                make_index(ctx)
        except LakescoreError as second:
            log.warning("the failure of run %s could not be recorded: %s", record.run_id, second.what)
        raise


@contextmanager
def _index_afterwards(ctx: Context) -> Iterator[list[Outcome]]:
    """Makes the index of the reports once after all days, if any has a new run. A failed run makes it itself."""
    outcomes: list[Outcome] = []
    try:
        yield outcomes
    finally:
        if any(outcome.first_skip or (outcome.record and not outcome.up_to_date) for outcome in outcomes):
            make_index(ctx)


def _in_one_line(error: Exception) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
