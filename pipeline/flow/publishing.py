"""Publishing on demand, outside a run."""

from __future__ import annotations

from collections.abc import Callable, Collection

from pipeline.context import Context, timed
from pipeline.errors import DeliveryFailed, JobError, LakescoreError, UsageError
from pipeline.flow import stage_list
from pipeline.flow.day import run_stage
from pipeline.flow.stage_list import Runs
from pipeline.lake.layout import Lake
from pipeline.publish import stage
from pipeline.publish.delivery import DeliveryState, DeliveryStore
from pipeline.publish.stage import Published, deliver_all, finished, targets_of
from pipeline.records import RunRecord


def publish_now(ctx: Context, ds: str, names: Collection[str] = (), *, replace_newer: bool = False) -> Published:
    """Delivers the complete run of a period, and writes its page again.

    Raises UsageError if the job has no such target, if the period has no complete run, or if it is older than one that
    was delivered and `replace_newer` is not set.
    """
    if not targets_of(ctx.job, names):
        raise UsageError(f"the job {ctx.job.name} has no [[publish]] table", next_step="see docs/publish.md")
    record = ctx.lake.records.last_complete(ctx.job.name, ds)
    if record is None:
        raise UsageError(f"{ds} has no complete run", next_step=f"lakescore run --job {ctx.job.name} --date {ds}")
    with timed("publish") as clock:
        done = deliver_all(ctx, record, names, replace_newer=replace_newer)
        clock.rows = done.rows
    if not names and not done.errors:
        record = ctx.lake.records.add(record, finished(clock.report))
    if ctx.job.announces:
        try:
            record = run_stage(ctx, stage_list.find("announce"), record, raises=True)
        except LakescoreError as failure:
            done.errors.setdefault("announce", failure)
    for each in stage_list.running(ctx.job, Runs.at_the_end):
        run_stage(ctx, each, record)
    held = [each for each in done.deliveries if each.state is DeliveryState.held]
    if held and not done.errors:
        error = UsageError(
            f"{', '.join(each.target for each in held)}: {ds} is not sent: {held[0].reason}",
            next_step="--force-older sends it all the same: readers then see the older period",
        )
        done.errors[held[0].target] = error
    return done


def after_rollback(lake: Lake, record: RunRecord, opened: Callable[[], Context]) -> Published:
    """Takes back what a run has delivered that was rolled back, and delivers what is current now.

    `opened` opens the context of the run's job; it is called only if anything was delivered. Raises JobError if the job
    cannot be found, or has lost a target that something was delivered to.
    """
    known = [each for each in DeliveryStore(lake).of(record.job) if each.ds == record.ds]
    if not known:
        return Published()
    try:
        ctx = opened()
    except JobError as error:
        raise JobError(
            f"the run is rolled back, but what it has delivered stands: {error.what}",
            where=error.where,
            got=", ".join(sorted({each.target for each in known})),
            next_step="the same command with --job FOLDER takes it back",
        ) from None
    done = stage.after_rollback(ctx, record)
    if ctx.job.announces:
        _announce_withdrawal(ctx, record, done)
    present = {target.name for target in ctx.job.publish}
    lost = {each.target for each in known if each.run_id == record.run_id and each.delivered_at} - present
    for name in sorted(lost):
        done.errors[name] = JobError(
            f"the run is rolled back, but what it has delivered to {name!r} stands: the job has no such target now",
            where=ctx.job.folder / "job.toml",
            next_step=f"add the [[publish]] table {name!r} again, and repeat the command",
        )
    return done


def _announce_withdrawal(ctx: Context, record: RunRecord, done: Published) -> None:
    """Tells those who were told about the deliveries of a run that they are withdrawn, and what is current now."""
    from pipeline.notify.announcing import announce_run

    for run in dict.fromkeys([record.run_id, *(each.run_id for each in done.deliveries)]):
        ds = next((each.ds for each in done.deliveries if each.run_id == run), record.ds)
        try:
            announce_run(ctx.lake, ctx.job, ctx.lake.records.read(record.job, ds, run))
        except DeliveryFailed as failure:
            done.errors.setdefault("announce", failure)
