"""The stage `publish`: hands a complete run on to the targets of its job, each at most once.

Order is by period, then by run: an older period never replaces a newer one unless a person asks for it, and of a period
only the run that is current is sent. A target that fails does not hold up the others; its delivery stays `failed` and
is tried again by the next run of the period, or by `lakescore publish`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pipeline.context import Context, timed
from pipeline.errors import LakescoreError, UsageError, nearest
from pipeline.job.config import Job
from pipeline.job.targets import AnyTarget
from pipeline.publish.delivering import deliver
from pipeline.publish.delivery import Delivery, DeliveryState, DeliveryStore
from pipeline.publish.taking_back import take_back
from pipeline.records import Addition, RunRecord, StageReport, State

WARNING = "not published"
"""Beginning of the run's warning about targets that failed."""


@dataclass
class Published:
    """What became of a run's deliveries in one pass over the targets."""

    deliveries: list[Delivery] = field(default_factory=list)
    errors: dict[str, LakescoreError] = field(default_factory=dict)
    """The error of each target that failed, by name."""

    @property
    def rows(self) -> int:
        """Number of rows that the targets have been sent by now."""
        return sum(each.rows for each in self.deliveries if each.state is DeliveryState.delivered)

    @property
    def error(self) -> LakescoreError | None:
        """The error to raise: a permanent one before one that a retry may fix."""
        return min(self.errors.values(), key=lambda error: error.transient, default=None)


def publish(ctx: Context, record: RunRecord) -> Addition:
    """Stage: sends the period to every target that does not have it. Raises the error of a target, one of several."""
    with timed("publish") as clock:
        done = deliver_all(ctx, record)
        clock.rows = done.rows
    if done.error is not None:
        raise done.error
    return finished(clock.report)


def finished(report: StageReport) -> Addition:
    """Returns what a pass in which no target failed adds to the run's record."""
    return Addition(stages=(report,), replaced_warnings=re.compile(rf"^{WARNING}: "))


def targets_of(job: Job, names: Collection[str] = ()) -> list[AnyTarget]:
    """Returns the targets of those names, or all. Raises UsageError for an unknown one."""
    known = {target.name: target for target in job.publish}
    for name in names:
        if name not in known:
            raise UsageError(
                f"the job {job.name} has no target {name!r}{nearest(name, list(known))}",
                expected=", ".join(known) or "a [[publish]] table in its job.toml",
            )
    return [target for name, target in known.items() if not names or name in names]


def deliver_all(
    ctx: Context, record: RunRecord, names: Collection[str] = (), *, replace_newer: bool = False
) -> Published:
    """Delivers a complete run to the targets of those names, or to all; goes on after a target that fails."""
    done = Published()
    for target in targets_of(ctx.job, names):
        with _errors_of(target, done):
            delivery = deliver(ctx, target, record, replace_newer=replace_newer)
            if delivery.state in (DeliveryState.delivered, DeliveryState.withdrawn):
                now = ctx.lake.records.read(record.job, record.ds, record.run_id)
                if now.state is State.rolled_back:  # while it was sent
                    take_back(ctx, target, now)
            done.deliveries.append(delivery)
    return done


def after_rollback(ctx: Context, record: RunRecord) -> Published:
    """Takes back what a run has delivered that was rolled back, and delivers what is current now, target by target."""
    done = Published()
    for target in targets_of(ctx.job):
        with _errors_of(target, done):
            done.deliveries += take_back(ctx, target, record)
    return done


def after_erasure(ctx: Context) -> Published:
    """Delivers the newest delivered period again, to each target, if its rows have changed."""
    done = Published()
    for target in targets_of(ctx.job):
        with _errors_of(target, done):
            known = DeliveryStore(ctx.lake).of(ctx.job.name, target.name)
            periods = [each.ds for each in known if each.is_out]
            record = ctx.lake.records.last_complete(ctx.job.name, max(periods)) if periods else None
            if record is not None:
                done.deliveries.append(deliver(ctx, target, record))
    return done


@contextmanager
def _errors_of(target: AnyTarget, done: Published) -> Iterator[None]:
    """Notes an error with the name of its target, so that the other targets follow."""
    try:
        yield
    except LakescoreError as error:
        error.what = f"target {target.name}: {error.what}"
        error.args = (str(error),)
        done.errors[target.name] = error
