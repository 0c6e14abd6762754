"""Announces deliveries to the people whom a target names: exports with links or the files, flags with counts alone.

What was told is recorded, so that it is told once: a channel that failed is tried again, the others are not.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.context import Context, timed
from pipeline.errors import DeliveryFailed, counted
from pipeline.job.config import Job
from pipeline.job.targets import Announce, ExportTarget, FlagsTarget
from pipeline.lake.layout import Lake
from pipeline.notify.channels import Channel, Notification, apprise_channels, send_once
from pipeline.notify.message import Message
from pipeline.publish.announced import announcement_key, told_through
from pipeline.publish.delivery import Delivery, DeliveryState, DeliveryStore
from pipeline.publish.manifest import Place
from pipeline.records import Addition, RunRecord
from pipeline.report import facts

MOST_ATTACHED = 10_000_000
"""Bytes of the files of an export that are attached; larger ones are only named."""

SETTLED = set(DeliveryState) - {DeliveryState.delivering, DeliveryState.failed}
"""States of a delivery about which there is something to tell, or nothing to wait for."""
Announced = ExportTarget | FlagsTarget
Channels = Callable[[Announce], Mapping[str, Channel]]


def announce(ctx: Context, record: RunRecord) -> Addition:
    """Stage: tells people through Apprise about what the run has delivered.

    Raises DeliveryFailed if a channel does not take a message, or if something is still to be delivered.
    """
    with timed("announce") as clock:
        clock.rows = announce_run(ctx.lake, ctx.job, record)
    settled = {each.target for each in DeliveryStore(ctx.lake).of_run(record) if each.state in SETTLED}
    if left := [target.name for target in ctx.job.publish if target.announced and target.name not in settled]:
        raise DeliveryFailed(
            f"{', '.join(left)} is not delivered yet",
            next_step=f"lakescore publish --job {record.job} --date {record.ds}",
        )
    return Addition(stages=(clock.report,), replaced_warnings=re.compile("^not announced: "))


def announce_run(
    lake: Lake, job: Job, record: RunRecord, channels: Channels = lambda wanted: apprise_channels(wanted.apprise)
) -> int:
    """Tells about the deliveries of a run, and about those of others that were withdrawn; goes on after one that fails.

    Returns the number of messages that have been sent by now. Raises DeliveryFailed if a channel did not take one.
    """
    targets = {target.name: target for target in job.publish if isinstance(target, Announced)}
    failed, told = [], 0
    for delivery in DeliveryStore(lake).of(job.name):
        target = targets.get(delivery.target)
        if target is None or not (ways := _ways(lake, record, delivery, channels(target.announce))):
            continue
        try:
            with _attached(lake, target, delivery) as files:
                message = _composed(lake, job, record, target, delivery, files)
                known = Notification(
                    job=job.name,
                    ds=delivery.ds,
                    run_id=delivery.run_id,
                    level=message.level,
                    title=message.title,
                    lines=message.lines,
                    deliveries=(),
                )
                send_once(lake, announcement_key(delivery), known, message, ways)
            told += 1
        except DeliveryFailed as error:
            failed.append(error)
    if failed:
        raise failed[0]
    return told


def _ways(lake: Lake, record: RunRecord, delivery: Delivery, ways: Mapping[str, Channel]) -> Mapping[str, Channel]:
    """Returns the channels through which a delivery is something to tell.

    One of this run is, but flags only if there are new cases. One that was withdrawn is to those who were told of it.
    """
    if delivery.state is DeliveryState.withdrawn:
        told = told_through(lake, delivery) if ways else set()
        return {name: channel for name, channel in ways.items() if name in told}
    is_news = delivery.state is DeliveryState.delivered and delivery.details.get("new_alerts") != 0
    return ways if is_news and delivery.run_id == record.run_id else {}


def _composed(
    lake: Lake, job: Job, record: RunRecord, target: Announced, delivery: Delivery, files: tuple[Path, ...]
) -> Message:
    of = (f"{job.grain.capitalize()}: {delivery.ds}", f"Model: {delivery.model.name} {delivery.model.version}")
    ends = (f"Run: {delivery.run_id}", f"Digest: {delivery.digest}")
    title = f"{target.name} {delivery.ds}"
    if delivery.state is DeliveryState.withdrawn:
        why = "The run was rolled back. Do not use what was delivered."
        return Message("warning", f"{title}: withdrawn", (*of, why, *_places(target, delivery), *ends))
    if isinstance(target, ExportTarget):
        lines = (*of, *_export_lines(target, delivery, files), *ends)
        return Message("success", f"{title}: {counted(delivery.rows, 'row')}", lines, files)
    counts = delivery.details
    lines = (
        *of,
        f"Cases: {counts['new_alerts']:,} new, {counts['open']:,} open, {counts['left']:,} closed",
        *([f"Cut by the budget of {target.budget:,}: {counts['cut']:,}"] if counts["cut"] else []),
        f"See: {_page(lake, job, record, target.announce)}",
        f"Or: lakescore query \"FROM flags WHERE job = '{job.name}' AND ds = '{delivery.ds}' AND alert = 'sent'\"",
        *ends,
    )
    return Message("warning", f"{title}: {counted(counts['new_alerts'], 'new case')}", lines)


def _export_lines(target: ExportTarget, delivery: Delivery, files: tuple[Path, ...]) -> Iterator[str]:
    details: dict[str, Any] = delivery.details
    held = f", {details['held_out']:,} held out of it" if target.holdout else ""
    yield f"Rows: {delivery.rows:,}{held}"
    for each in details["suppressed"]:
        yield f"Suppressed: {counted(each['removed'], 'row')} by {each['name']}, which lists {each['listed']:,}"
    changes = {file["what"]: file["rows"] for file in details["files"] if file["what"] not in ("rows", "holdout")}
    if changes:
        since = details["base"]
        counts = ", ".join(f"{rows:,} {what}" for what, rows in changes.items())
        yield f"Changes since {since['ds']}: {counts}" if since else f"Changes: {counts}, as there is no export before"
    yield from _places(target, delivery)
    if target.announce.attach and not files:
        yield "Not attached: the files are larger than 10 MB, or were moved away"


def _places(target: Announced, delivery: Delivery) -> Iterator[str]:
    """Yields a line for each file of an export, with the address at which people find it."""
    if not isinstance(target, ExportTarget):
        return
    link = target.announce.link
    base = f"{link.rstrip('/')}/{delivery.details['folder']}" if link else delivery.place
    for file in delivery.details["files"]:
        yield f"File: {base}/{file['name']} ({counted(file['rows'], 'row')}, sha256 {file['sha256']})"


def _page(lake: Lake, job: Job, record: RunRecord, wanted: Announce) -> str:
    return wanted.link or facts.place_of(lake, job, facts.page_of(record) if job.report.enabled else facts.INDEX)


@contextmanager
def _attached(lake: Lake, target: Announced, delivery: Delivery) -> Iterator[tuple[Path, ...]]:
    """Yields copies of an export's files, if they are to be attached, small enough, and all there."""
    if not isinstance(target, ExportTarget) or not target.announce.attach or delivery.state is DeliveryState.withdrawn:
        yield ()
        return
    with tempfile.TemporaryDirectory(prefix="lakescore-") as folder:
        yield tuple(_copies(lake, target, delivery, Path(folder)))


def _copies(lake: Lake, target: ExportTarget, delivery: Delivery, folder: Path) -> Iterable[Path]:
    files = [file for file in delivery.details["files"] if file["what"] != "holdout"]
    if sum(file["bytes"] for file in files) > MOST_ATTACHED:
        return []
    storage, copies = Place.of(lake, target, delivery.job).storage, []
    for file in files:
        copies.append(folder / file["name"])
        try:
            with storage.open(f"{delivery.details['folder']}/{file['name']}") as source, copies[-1].open("xb") as copy:
                shutil.copyfileobj(source, copy)
        except FileNotFoundError:
            return []
    return copies
