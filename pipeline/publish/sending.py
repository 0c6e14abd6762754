"""The contract between the stage and a kind of target: what a sender is given, and what it returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.context import Context
from pipeline.publish.delivery import Delivery
from pipeline.records import RunRecord

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

SENDERS = {
    "redis": ("pipeline.publish.redis_sender", "RedisSender"),
    "export": ("pipeline.publish.export_sender", "ExportSender"),
    "flags": ("pipeline.publish.flags_sender", "FlagsSender"),
}
"""Module and class of the sender of each kind of target; imported when it sends."""


@dataclass(frozen=True)
class Outgoing:
    """What is to be sent to a target: the current predictions of the period of a complete run."""

    ctx: Context
    target: Any
    """Model of the kind that the sender is for."""
    record: RunRecord
    con: Connection
    """Connection with the views `predictions`, those of the period, and `outgoing`, those of them that are sent."""
    rows: int
    """Number of rows of `outgoing`, counted by a query of its own."""
    previous: Delivery | None
    """The last delivery to this target that stands: of another run, or an earlier one of this run."""
    known: tuple[Delivery, ...]
    """All delivery records of this target, the one whose state is newest last."""
    as_of: datetime
    replaces_newer: bool = False
    """Whether a person has asked for this period although a newer one was delivered."""


@dataclass(frozen=True)
class Sent:
    rows: int
    digest: str
    """The sha256 of what was sent."""
    place: str
    """Where it was sent, without secrets."""
    details: Mapping[str, Any] = field(default_factory=dict)
    artifacts: tuple[str, ...] = ()
    """Addresses of the files that were handed over."""


class Overtaken(Exception):
    """Raised by `send` if the target has a newer period or run than the one that was to be sent."""


class Sender(Protocol):
    def stands(self, ctx: Context, target: Any, delivery: Delivery) -> bool:
        """Tells whether what was delivered is still there; if not, it is sent again."""

    def send(self, outgoing: Outgoing) -> Sent:
        """Sends the rows; may be called again after a crash at any moment, and beside another process that sends.

        Raises DeliveryFailed if a retry may help, DeliveryRefused if not; Overtaken if the target has newer rows.
        """

    def withdraw(self, ctx: Context, target: Any, delivery: Delivery, successor: RunRecord | None) -> str | None:
        """Takes back what a run has delivered that was rolled back; can be repeated.

        `successor` is the run that is sent next, if any. Returns why something cannot be taken back, or None.
        """


def sender_of(kind: str) -> Sender:
    module, name = SENDERS[kind]
    made: Sender = getattr(import_module(module), name)()
    return made
