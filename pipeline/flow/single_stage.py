"""Runs one stage in its own process, as an orchestrator does: possibly again, late, after a kill, or twice at once.

The record says what a run has done, so a stage does only what is not done yet. If the run's plan no longer holds (the
input or the job changed, another run was faster), the run ends, a new run with another id brings the day to the same
stage, and its id is passed on.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from pipeline.context import Context
from pipeline.errors import InputMissing, ModelError
from pipeline.flow import stage_list
from pipeline.flow.day import (
    PLAN_AGAIN,
    Outcome,
    advance,
    backfill,
    begin,
    days_to_look_back_to,
    make_index,
    run_stage,
    skip,
    until_it_holds,
    within_memory,
    without_plan,
)
from pipeline.flow.stage_list import Runs
from pipeline.lake import unplanned
from pipeline.lake.record_store import OPEN
from pipeline.records import RunRecord, State, new_run_id, same_files
from pipeline.selecting.input import check_input
from pipeline.staging.folders import staged_files


def run_task(ctx: Context, name: str, ds: str, run_id: str | None = None, since: str | None = None) -> dict[str, Any]:
    """Runs one stage of a day and returns what the next one needs: a few small values, above all `run_id`.

    `since` is the first day of the stage `earlier`.

    Raises UsageError for an unknown stage, CommitConflict or InputChanged if the day still conflicts after several
    attempts, and what the stages raise.
    """
    stage = stage_list.find(name)
    if name == "earlier":
        return earlier(ctx, ds, since)
    if stage.runs is Runs.on_a_day and name != "plan":
        found: dict[str, Any] = within_memory(ctx, lambda ctx: stage.function()(ctx, ds))
        return found
    try:
        record = bring(ctx, ds, name, run_id)
    except InputMissing as error:
        return _skipped(ctx, ds, error)
    if stage.repeated:  # the page was made beside it
        for after in stage_list.running(ctx.job, Runs.at_the_end):
            record = run_stage(ctx, after, record)
    if any(follower.runs is Runs.on_the_lake for follower in stage_list.following(ctx.job, name)):
        make_index(ctx)
    return {**summary(record), **(_alarms(ctx, record) if name == "drift" else {})}


def bring(ctx: Context, ds: str, name: str, run_id: str | None) -> RunRecord:
    """Brings a run up to a stage; begins a new run whenever the plan no longer holds."""
    ids = iter([run_id])

    def attempt() -> Outcome:
        return Outcome(ds, _through(ctx, ds, name, next(ids, None)))

    record = until_it_holds(attempt).record
    assert record is not None
    return record


def check(ctx: Context, ds: str) -> dict[str, Any]:
    """Stage: tells which run a day needs: a new one, or its last complete one if nothing has changed since.

    A day whose stored results of the job's model still hold, but are not shown, gets its complete run here.
    """
    done = without_plan(ctx, ds, repeats=False)
    if done is not None and done.record is not None and done.record.state not in PLAN_AGAIN:
        if not done.up_to_date:
            make_index(ctx)
        return {**summary(done.record), "up_to_date": True}
    try:
        with unplanned.noted(ctx.lake, ctx.job.name, ctx.job.patterns, ds):
            check_input(ctx, ctx.manifest(), ds)
    except InputMissing as error:
        return _skipped(ctx, ds, error)
    return {"ds": ds, "run_id": new_run_id(ctx.lake.records.newest_id(ctx.job.name, ds)), "state": "new"}


def late_rows(ctx: Context, ds: str) -> dict[str, Any]:
    """Stage: brings the days that the job looks back to up to date.

    Continues after a failed day, and raises the first error at the end.
    """
    return {"ds": ds, **_bring_all(ctx, days_to_look_back_to(ctx, ds))}


def _skipped(ctx: Context, ds: str, error: InputMissing) -> dict[str, Any]:
    outcome = skip(ctx, ds, error)
    if outcome.first_skip:
        make_index(ctx)
    return {"ds": ds, "run_id": None, "state": "skipped", "reason": outcome.skipped}


def earlier(ctx: Context, ds: str, since: str | None = None) -> dict[str, Any]:
    """Stage: brings the days from `since` to the day before `ds` up to date, oldest first, like `late_rows`."""
    first, last = ctx.job.period(since or ds), ctx.job.period(ds)
    return {"ds": ds, **_bring_all(ctx, [period.ds for period in first.through(last - 1)])}


def _bring_all(ctx: Context, days: list[str]) -> dict[str, Any]:
    outcomes = list(backfill(ctx, days))
    if (error := next((outcome.error for outcome in outcomes if outcome.error), None)) is not None:
        raise error
    changed = [outcome.ds for outcome in outcomes if outcome.record and not outcome.up_to_date]
    return {"days": len(outcomes), "changed": changed}


def summary(record: RunRecord) -> dict[str, Any]:
    """Returns the few values of a run that an orchestrator passes on and shows."""
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


def _through(ctx: Context, ds: str, name: str, run_id: str | None) -> RunRecord:
    record = _resumable(ctx, ds, name, run_id) if run_id else None
    if record is None:
        taken = run_id is not None and ctx.lake.records.exists(ctx.job.name, ds, run_id)
        given = None if taken else run_id
        record = begin(ctx, ds, given, goes_on=name != "plan")
    if record.state is State.complete:
        from pipeline.committing.stage import settle

        record = settle(ctx, record)
    record = advance(ctx, record, name)
    if record.state in OPEN:
        # Between two processes, no pid can tell whether a run is active; without a pid, no other run removes its files.
        record = ctx.lake.records.change(record, lambda stored: stored.with_(host="", pid=0))
    return record


def _resumable(ctx: Context, ds: str, name: str, run_id: str) -> RunRecord | None:
    """Returns the record of a run that can continue from where it is, marked as this process's; else None."""
    records = ctx.lake.records
    if not records.exists(ctx.job.name, ds, run_id):
        return None
    record = records.read(ctx.job.name, ds, run_id)
    early = stage_list.find(name).runs in (Runs.on_a_day, Runs.before_commit) and name != "commit"
    same = (
        record.job_digest == ctx.job.digest
        and same_files(record.plan.input, ctx.lake.input_files(ctx.job.patterns, ds))
        and _has_its_model(ctx, record)
    )
    if record.state is State.complete:
        # A task may be cleared by hand after the input changed: only the stages before the commit need a new plan.
        return None if early and not same else record
    if record.state is State.rolled_back:
        # Stages after the commit have nothing to do; the commit and the stages before it begin a new run.
        return None if early or name == "commit" else record
    fresh = name == "plan" and record.state is State.failed
    if not same or fresh or record.state in (State.superseded, State.overtaken, State.stopped):
        return None
    return records.change(record, lambda stored: _taken_up(ctx, stored))


def _has_its_model(ctx: Context, record: RunRecord) -> bool:
    """Tells whether the model of a run is still registered under its name and version."""
    try:
        ctx.manifest_of(record)
    except ModelError:
        return False
    return True


def _taken_up(ctx: Context, record: RunRecord) -> RunRecord:
    """Returns the record of a run that this process continues."""
    done = {report.stage for report in record.stages}
    expected = record.dispositions.get("scored", 0)
    if "score" in done and expected and not record.committed and not staged_files(ctx, record, "scored"):
        done = {"plan"}  # the staged files were removed, or lost with a disk
    return record.with_(
        state=State.scored if "score" in done else State.planned,
        stages=tuple(report for report in record.stages if report.stage in done),
        error=None,
        finished_at=None,
        host=socket.gethostname(),
        pid=os.getpid(),
    )


def _alarms(ctx: Context, record: RunRecord) -> dict[str, int]:
    """Returns the number of a run's alarms, by level."""
    from pipeline.drift.stage import alarm_levels

    return {f"drift_{level}": count for level, count in alarm_levels(ctx.lake, record).items()}
