"""publish, deliveries, lookup: what other programs have of the predictions."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.asking import open_lake
from pipeline.cli.next_steps import completed
from pipeline.cli.options import (
    JOB,
    DateOption,
    JobOption,
    JsonOption,
    LakeOption,
    open_context,
    period_or_last,
    settings,
)
from pipeline.cli.output import console, emit_json, table
from pipeline.cli.progress import progress
from pipeline.context import Context
from pipeline.errors import counted
from pipeline.publish.delivery import Delivery, DeliveryState, DeliveryStore
from pipeline.publish.stage import Published, targets_of
from pipeline.records import RunRecord

TargetsOption = Annotated[
    list[str] | None, typer.Option("--target", help="Name of a target; can be repeated.", show_default="all")
]


def add_to(app: typer.Typer) -> None:
    app.command()(publish)
    app.command()(deliveries)
    app.command()(lookup)


def publish(
    ds: DateOption = None,
    target: TargetsOption = None,
    job: JobOption = JOB,
    lake: LakeOption = None,
    *,
    force_older: Annotated[
        bool, typer.Option("--force-older", help="Send the period although a newer one was delivered.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Send the current predictions of a day to the job's targets, unless they are there already."""
    from pipeline.flow.publishing import publish_now

    with progress(quiet=json) as report:
        ctx = open_context(job, lake, report)
        done = publish_now(ctx, period_or_last(ctx.job, ds), target or (), replace_newer=force_older)
    if json and done.error is None:
        emit_json([delivery.model_dump(mode="json") for delivery in done.deliveries])
    elif not json and done.deliveries:
        show(done.deliveries)
    raise_error(done)


def deliveries(
    target: Annotated[str | None, typer.Option(help="Name of a target.", show_default="all")] = None,
    job: JobOption = JOB,
    lake: LakeOption = None,
    *,
    limit: Annotated[int, typer.Option(help="Number of deliveries to show, newest first.", min=1)] = 31,
    json: JsonOption = False,
) -> None:
    """List what was sent to the targets of a job, newest first."""
    from pipeline.job.loading import find_job

    machine = settings(lake)
    of = find_job(job, machine)
    found = DeliveryStore(open_lake(machine)).of(of.name, target)[::-1][:limit]
    if target is not None and not found:  # a target that the job has no more may well have deliveries
        targets_of(of, [target])
    if json:
        emit_json([delivery.model_dump(mode="json") for delivery in found])
    elif found:
        show(found)
    else:
        console().print("nothing has been delivered")


def lookup(
    key: Annotated[
        str,
        typer.Argument(
            metavar="KEY", help="The key; join the values of several columns by commas.", show_default=False
        ),
    ],
    target: Annotated[str | None, typer.Option(help="Name of a Redis target.", show_default="the only one")] = None,
    job: JobOption = JOB,
    lake: LakeOption = None,
    *,
    json: JsonOption = False,
) -> None:
    """Show what Redis serves for a key now."""
    from pipeline.job.loading import find_job
    from pipeline.publish.redis_reader import look_up

    pointer, values = look_up(find_job(job, settings(lake)), key, target)
    about = {name: pointer[name] for name in ("ds", "run_id", "model_name", "model_version", "published_at")}
    if json:
        emit_json({"key": key, **about, "values": values})
        return
    out = console()
    model = f"model {about['model_name']} {about['model_version']}"
    out.print(f"{key}: {about['ds']}, {model}, run {about['run_id']}, published {about['published_at']}", markup=False)
    table(("column", "value"), [(name, value) for name, value in values.items()])


def show_targets(ctx: Context, record: RunRecord) -> None:
    """Prints what has become of a run at each target, one line each."""
    for each in DeliveryStore(ctx.lake).of_run(record) if ctx.job.publish else ():
        if each.state is DeliveryState.delivered:
            line = f"{each.target}: {counted(each.rows, 'row')} delivered to {each.place}"
        else:
            line = f"{each.target}: {each.state}, {each.reason or 'not finished'}"
        console().print(line, markup=False)
        if each.state is DeliveryState.failed:
            again = completed(f"lakescore publish --job {record.job} --date {record.ds}")
            console().print(f"the predictions are committed; the next run tries again, or: {again}", markup=False)


def raise_error(done: Published) -> None:
    """Raises the error of a target, if one failed; those of further targets are printed before."""
    for error in done.errors.values():
        if error is not done.error:
            console(stderr=True).print(f"error: {error}", markup=False)
    if done.error is not None:
        raise done.error


def show(found: list[Delivery]) -> None:
    """Prints deliveries as a table."""
    headings = ("day", "target", "state", "rows", "when", "run", "where", "note")
    table(
        headings,
        (
            (
                *(each.ds, each.target, each.state.value, each.rows, f"{each.at:%Y-%m-%d %H:%M:%S}"),
                *(each.run_id, each.place or "-", each.reason or ""),
            )
            for each in found
        ),
        below=("run", "where", "note"),
    )
