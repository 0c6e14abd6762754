"""Delivery of messages. A failed delivery never fails the caller; each outcome is stored in the lake."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping

from pipeline.errors import DeliveryFailed
from pipeline.job.config import Job
from pipeline.lake.layout import Lake
from pipeline.notify.message import Message
from pipeline.records import Frozen, new_run_id

log = logging.getLogger(__name__)

Channel = Callable[[Message], None]
"""Sends a message; may raise any exception."""


class Delivery(Frozen):
    channel: str
    error: str | None = None


class Notification(Frozen):
    """A message and its deliveries, stored as `notifications/job=<job>/ds=<ds>/<id>.json`."""

    job: str
    ds: str
    run_id: str | None
    level: str
    title: str
    lines: tuple[str, ...]
    deliveries: tuple[Delivery, ...]

    def to_json(self) -> bytes:
        return self.model_dump_json(indent=1).encode() + b"\n"


class NotDelivered(Exception):
    pass


def send(
    lake: Lake, job: Job, ds: str, run_id: str | None, message: Message, channels: Mapping[str, Channel]
) -> Notification:
    """Sends a message through all channels and stores the outcome. Raises errors of the lake, but not of a channel."""
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
    lake.storage.write(key, found.to_json())
    return found


def send_once(lake: Lake, key: str, found: Notification, message: Message, channels: Mapping[str, Channel]) -> None:
    """Sends a message through those of the channels that have not taken it yet, according to the record at `key`.

    After a crash in mid-send, a channel may be given it twice. Raises DeliveryFailed if a channel does not take it.
    """
    stored = lake.storage.read(key)
    done = Notification.model_validate_json(stored).deliveries if stored else ()
    taken = {each.channel: each for each in done if each.error is None}
    for name, channel in channels.items():
        if name not in taken:
            others = [each for each in done if each.channel != name]
            done = (*others, _deliver(name, channel, message))
            lake.storage.write(key, found.model_copy(update={"deliveries": done}).to_json())
    if failed := [each for each in done if each.error is not None and each.channel in channels]:
        raise DeliveryFailed(
            f"a message did not reach {', '.join(each.channel for each in failed)}",
            where=lake.storage.where(key),
            got="; ".join(str(each.error) for each in failed),
            next_step="once it is reachable: lakescore publish sends it, and nothing else again",
        )


def _deliver(name: str, channel: Channel, message: Message) -> Delivery:
    try:
        channel(message)
    except Exception as error:  # noqa: BLE001 - third-party code and network: any error is stored, none is fatal
        reason = f"{type(error).__name__}: {error}"
        log.warning("the message did not reach %s: %s", name, reason)
        return Delivery(channel=name, error=reason)
    return Delivery(channel=name)


def apprise_channels(names: Iterable[str], environ: Mapping[str, str] = os.environ) -> dict[str, Channel]:
    """Returns a channel per environment variable name; the variable must hold an Apprise URL when a message is sent."""
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
            body=message.text,
            title=message.title,
            notify_type=apprise.NotifyType(kinds[message.level]),
            body_format=apprise.NotifyFormat.TEXT,  # else a channel guesses, and may render the names in it as HTML
            attach=[str(path) for path in message.attachments] or None,
        ):
            raise NotDelivered("the endpoint refused the message or did not answer")

    return deliver
