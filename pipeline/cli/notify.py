"""notify: tells people how the last run of a day ended."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from pipeline.cli.options import JOB, DateOption, JobOption, JsonOption, LakeOption, settings
from pipeline.cli.output import console, emit_json
from pipeline.job import find_job
from pipeline.lake import Lake
from pipeline.records import check_day


def add_to(app: typer.Typer) -> None:
    app.command()(notify)


def notify(
    ds: DateOption = None,
    run_id: Annotated[str | None, typer.Option(help="A run.", show_default="the day's last")] = None,
    error: Annotated[str | None, typer.Option(help="What went wrong, if no run could be begun.")] = None,
    job: JobOption = JOB,
    lake: LakeOption = None,
    *,
    unless_complete: Annotated[
        bool, typer.Option("--unless-complete", help="Only if the day is not complete: for cron, at its latest hour.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Sends a message about a day through Apprise, if the job wants one. A dead endpoint fails nothing."""
    from pipeline.notify import channels, message

    machine = settings(lake)
    found, stored = find_job(job, machine), Lake.open(machine.lake)
    day = found.yesterday(datetime.now(UTC)) if ds is None else check_day(ds)
    read = (stored.read_record(found.name, day, run_id),) if run_id else stored.iter_records(found.name, day)
    record = next(iter(read), None)
    if unless_complete:
        if stored.last_complete(found.name, day) is not None:
            return
        error = error or f"the day is not complete at {datetime.now(UTC):%H:%M} UTC"
    error = error or (None if record else "no run was begun")
    told = message.compose(found, day, record, error, report=message.report_of(stored, record))
    ways = channels.apprise_channels(found.notify.apprise) if told.level in found.notify.on else {}
    sent = channels.send(stored, found, day, record.run_id if record else None, told, ways)
    if json:
        emit_json(sent.model_dump())
        return
    console().print(told.title, markup=False)
    console().print(told.text, markup=False)
    for delivery in sent.deliveries:
        console(stderr=True).print(f"{delivery.channel}: {delivery.error or 'sent'}", markup=False)
