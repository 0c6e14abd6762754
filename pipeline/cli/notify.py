"""notify: send a message about the last run of a day."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.asking import Missing, open_lake
from pipeline.cli.options import JOB, DateOption, JobOption, JsonOption, LakeOption, period_or_last, settings
from pipeline.cli.output import console, emit_json
from pipeline.errors import InputError
from pipeline.job.config import Job
from pipeline.job.loading import find_job
from pipeline.lake import skips

if TYPE_CHECKING:
    from pipeline.notify.channels import Notification


def add_to(app: typer.Typer) -> None:
    app.command()(notify)


def notify(
    ds: DateOption = None,
    run_id: Annotated[str | None, typer.Option(help="Run id.", show_default="the day's last")] = None,
    error: Annotated[str | None, typer.Option(help="Error text to report, if no run could be started.")] = None,
    job: JobOption = JOB,
    lake: LakeOption = None,
    *,
    unless_complete: Annotated[
        bool,
        typer.Option(
            "--unless-complete", help="Send only if the day is not complete; for cron, at the hour when it must be."
        ),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Send a message about a day through Apprise, if the job asks for it. A failed delivery is not an error."""
    from pipeline.notify import channels, message
    from pipeline.publish.delivery import DeliveryStore

    machine = settings(lake)
    found, stored = find_job(job, machine), open_lake(machine, Missing.make)
    day = period_or_last(found, ds)
    read = (stored.records.read(found.name, day, run_id),) if run_id else stored.records.iter_day(found.name, day)
    record = next(iter(read), None)
    try:
        skip = skips.find(stored, found.name, day, stored.input_files(found.patterns, day))
    except InputError:  # a run of the day failed for that reason, and it is what the message is about
        skip = None
    if unless_complete:
        if skip is not None and record is None:
            return
        if stored.records.last_complete(found.name, day) is not None:
            return
        error = error or f"the {found.grain} is not complete at {datetime.now(UTC):%H:%M} UTC"
    if record is None and error is None and skip is not None:
        told = message.skipped(found, day, skip.reason)
    else:
        error = error or (None if record else "no run was started")
        sent_on = DeliveryStore(stored).of_run(record) if record else []
        told = message.compose(
            stored, found, day, record, error, report=message.report_of(stored, found, record), deliveries=sent_on
        )
    ways = channels.apprise_channels(found.notify.apprise) if told.level in found.notify.on else {}
    sent = channels.send(stored, found, day, record.run_id if record else None, told, ways)
    if json:
        emit_json(sent.model_dump())
        return
    console().print(told.title, markup=False)
    console().print(told.text, markup=False)
    for line in _sent(found, sent):
        console(stderr=True).print(line, markup=False)


def _sent(job: Job, sent: Notification) -> Iterator[str]:
    """Yields what became of a message at each channel, or why it was not sent."""
    if sent.level not in job.notify.on:
        yield f"not sent: {sent.level} is not in [notify] on, which is {', '.join(job.notify.on) or 'empty'}"
    elif not sent.deliveries:
        mail = "; mail is sent by Airflow" if job.notify.mail else ""
        yield f"not sent: [notify] apprise names no channel{mail}"
    for each in sent.deliveries:
        yield f"not sent to {each.channel}: {each.error}" if each.error else f"sent to {each.channel} as {sent.level}"
