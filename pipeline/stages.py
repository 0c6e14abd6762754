"""One stage in a process of its own, as an orchestrator runs it: again, late, after a kill, or twice.

What a run has done stands in its record, so a stage does only what is not done yet. If the run's plan no longer holds
(the input or the job changed, another run was faster), the run ends, a new one with another id brings the day as far,
and its id is handed on.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipeline import check, run, staging
from pipeline.context import Context
from pipeline.errors import CommitConflict, InputChanged, InputMissing, TransientError, UsageError
from pipeline.lake import Partition
from pipeline.records import RunRecord, State, new_run_id

if TYPE_CHECKING:
    from pipeline.job import Job
    from pipeline.model.manifest import Manifest

CHECK, LATE_ROWS = "check", "late_rows"
NAMES = (CHECK, *run.STAGES, LATE_ROWS)
BEFORE_COMMIT = run.STAGES[: run.STAGES.index("commit")]


def of(job: Job) -> list[str]:
    """Returns the stages with a run record, in order, less those that the job has switched off."""
    off: set[str] = set()
    if not job.quality.enabled:
        off |= {"validate_input", "validate_output"}
    if not job.drift.enabled:
        off |= {"profile", "drift"}
    if not job.report.enabled:
        off.add("report")
    return [name for name in run.STAGES if name not in off]


def run_stage(ctx: Context, name: str, ds: str, run_id: str | None = None) -> dict[str, Any]:
    """Runs one stage of a day and returns what the next one needs: a few small values, first of all `run_id`.

    Raises UsageError for a name that is none, CommitConflict or InputChanged if the day does not come to rest, and
    what the stages raise.
    """
    if name == CHECK:
        return _check(ctx, ds)
    if name == LATE_ROWS:
        return _late_rows(ctx, ds)
    if name not in run.STAGES:
        raise UsageError(f"no stage is called {name!r}", expected=", ".join(NAMES))
    record = advance(ctx, ds, name, run_id)
    if name == "report":
        run.index(ctx)
    return {**summary(record), **(_alarms(ctx, record) if name == "drift" else {})}


def advance(ctx: Context, ds: str, name: str, run_id: str | None) -> RunRecord:
    """Brings a run as far as a stage, and over to a new run whenever its plan does not hold any more."""
    manifest = ctx.registry.resolve(ctx.job.model.name, ctx.job.model.version)
    last: TransientError | None = None
    for _ in range(run.ROUNDS):
        try:
            record = _through(ctx, manifest, ds, name, run_id)
        except InputChanged as error:
            last = error
        else:
            if record.state is not State.overtaken:
                return record
            where = Partition(record.job, ds, record.model.version).folder
            last = CommitConflict(f"other runs keep changing {ds}", where=where)
        run_id = None
    assert last is not None
    raise last


def _through(ctx: Context, manifest: Manifest, ds: str, name: str, run_id: str | None) -> RunRecord:
    record = _resumable(ctx, ds, name, run_id) if run_id else None
    if record is None:
        taken = run_id is not None and ctx.lake.storage.head(ctx.lake.record_key(ctx.job.name, ds, run_id)) is not None
        record = run.plan(ctx, manifest, ds, None if taken else run_id, goes_on=name != "plan")
    done = {report.stage for report in record.stages}
    for stage in run.STAGES[1 : run.STAGES.index(name) + 1]:
        if stage not in done:
            work: Callable[[Context, RunRecord], RunRecord] = getattr(run, stage)
            record = work(ctx, record)
    if record.state in (State.planned, State.scored):
        # Between two processes: no process id says whether the run is at work, so no other run may clear its staging.
        record = record.with_(host="", pid=0)
        ctx.lake.write_record(record)
    return record


def _resumable(ctx: Context, ds: str, name: str, run_id: str) -> RunRecord | None:
    """Returns the record of a run that can go on from where it is, marked as this process's; else None."""
    if ctx.lake.storage.head(ctx.lake.record_key(ctx.job.name, ds, run_id)) is None:
        return None
    record = ctx.lake.read_record(ctx.job.name, ds, run_id)
    same = record.job_digest == ctx.job.digest and record.plan.input == ctx.lake.input_files(ctx.job.input.patterns, ds)
    if record.state is State.complete:
        # Cleared by hand after the input changed, the plan is made anew; a stage after it takes what is there.
        return None if name in BEFORE_COMMIT and not same else record
    fresh = name == "plan" and record.state is State.failed
    if not same or fresh or record.state in (State.superseded, State.overtaken, State.stopped):
        return None
    done = {report.stage for report in record.stages}
    expected = record.dispositions.get("scored", 0)
    if "score" in done and expected and not record.committed and not staging.files(ctx, record, "scored"):
        done = {"plan"}  # what was staged is gone: by hand, or with a disk
    record = record.with_(
        state=State.scored if "score" in done else State.planned,
        stages=tuple(report for report in record.stages if report.stage in done),
        error=None,
        finished_at=None,
        host=socket.gethostname(),
        pid=os.getpid(),
    )
    ctx.lake.write_record(record)
    return record


def _check(ctx: Context, ds: str) -> dict[str, Any]:
    """Tells which run a day needs: a new one, or its last complete one if nothing has changed since."""
    from pipeline import unscored

    manifest = ctx.registry.resolve(ctx.job.model.name, ctx.job.model.version)
    if (done := check.up_to_date(ctx, manifest, ds)) is not None:
        return {**summary(run.repair(ctx, done)), "up_to_date": True}
    try:
        unscored.check_input(ctx, manifest, ds)
    except InputMissing:
        if ctx.job.policy.missing_input != "skip":
            raise
        return {"ds": ds, "run_id": None, "state": "skipped"}
    return {"ds": ds, "run_id": new_run_id(), "state": "new"}


def _late_rows(ctx: Context, ds: str) -> dict[str, Any]:
    """Brings the days to look back to up to date. Goes on past a failed one, and raises its error at the end."""
    with_input = set(ctx.lake.input_days(ctx.job.input.patterns.values()))
    outcomes = list(run.backfill(ctx, [day for day in ctx.job.days(ds)[1:] if day in with_input]))
    if (error := next((outcome.error for outcome in outcomes if outcome.error), None)) is not None:
        raise error
    changed = [outcome.ds for outcome in outcomes if not outcome.up_to_date]
    return {"ds": ds, "days": len(outcomes), "changed": changed}


def _alarms(ctx: Context, record: RunRecord) -> dict[str, int]:
    """Counts the columns of a run that have drifted."""
    from pipeline.drift import store

    table = store.of_run(ctx, "drift", record)
    outcomes = table.column("outcome").to_pylist() if table is not None else []
    return {f"drift_{level}": outcomes.count(level) for level in ("warning", "critical")}


def summary(record: RunRecord) -> dict[str, Any]:
    """Returns the small values of a run that an orchestrator hands on and shows."""
    scoring = next((report for report in record.stages if report.stage == "score"), None)
    return {
        "ds": record.ds,
        "run_id": record.run_id,
        "state": record.state.value,
        "model_version": record.model.version,
        "ledger": record.ledger.counts() if record.ledger else {"candidates": record.plan.candidates.rows},
        "parts": len(record.parts),
        "rows_per_s": scoring.rows_per_s if scoring else 0.0,
        "peak_memory_bytes": record.peak_memory_bytes,
    }
