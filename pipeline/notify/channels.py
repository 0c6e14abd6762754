"""How a message goes out. A dead endpoint fails nothing; what became of each delivery is written into the lake."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping

from pipeline.job import Job
from pipeline.lake import Lake
from pipeline.notify.message import Message
from pipeline.records import Frozen, new_run_id

log = logging.getLogger(__name__)

Channel = Callable[[Message], None]
"""Sends a message, or raises whatever it likes."""


class Delivery(Frozen):
    channel: str
    error: str | None = None


class Notification(Frozen):
    """One message and what became of it: `notifications/job=<job>/ds=<ds>/<id>.json`."""

    job: str
    ds: str
    run_id: str | None
    level: str
    title: str
    lines: tuple[str, ...]
    deliveries: tuple[Delivery, ...]


class NotDelivered(Exception):
    pass


def send(
    lake: Lake, job: Job, ds: str, run_id: str | None, message: Message, channels: Mapping[str, Channel]
) -> Notification:
    """Sends a message through all channels, and writes down how it went. Raises only what the lake raises."""
    deliveries = tuple(_deliver(name, channel, message) for name, channel in channels.items())
    found = Notification(
        job=job.name,
        ds=ds,
        run_id=run_id,
        level=message.level,
        title=message.title,
        lines=message.lines,
        deliveries=deliveries,
    )
    key = f"notifications/job={job.name}/ds={ds}/{new_run_id()}.json"
    lake.storage.write(key, found.model_dump_json(indent=1).encode() + b"\n")
    return found


def _deliver(name: str, channel: Channel, message: Message) -> Delivery:
    try:
        channel(message)
    except Exception as error:  # noqa: BLE001 - somebody else's code and network: it is written down, whatever it is
        reason = f"{type(error).__name__}: {error}"
        log.warning("the message did not reach %s: %s", name, reason)
        return Delivery(channel=name, error=reason)
    return Delivery(channel=name)


def apprise_channels(names: Iterable[str], environ: Mapping[str, str] = os.environ) -> dict[str, Channel]:
    """Returns a channel for each environment variable that is to hold an Apprise URL."""
    return {name: _apprise(name, environ.get(name)) for name in names}


def _apprise(name: str, url: str | None) -> Channel:
    def deliver(message: Message) -> None:
        if not url:
            raise NotDelivered(f"the environment variable {name} is not set")
        try:
            import apprise
        except ImportError:
            raise NotDelivered("Apprise is not installed: pip install 'lakescore[notify]'") from None
        kinds = {"success": "success", "warning": "warning", "failure": "failure", "stopped": "failure"}
        sender = apprise.Apprise()
        if not sender.add(url):
            raise NotDelivered(f"{name} does not hold an Apprise URL")
        if not sender.notify(
            body=message.text, title=message.title, notify_type=apprise.NotifyType(kinds[message.level])
        ):
            raise NotDelivered("the endpoint refused it, or did not answer")

    return deliver
