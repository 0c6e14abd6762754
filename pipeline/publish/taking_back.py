"""After a rollback: what the run has sent to a target is withdrawn, and what is current then is sent again."""

from __future__ import annotations

from pipeline.context import Context
from pipeline.job.targets import AnyTarget
from pipeline.publish.delivering import deliver
from pipeline.publish.delivery import Delivery, DeliveryState, DeliveryStore
from pipeline.publish.sending import sender_of
from pipeline.records import RunRecord

SENT = (DeliveryState.delivered, DeliveryState.delivering, DeliveryState.failed, DeliveryState.withdrawn)
"""States of a delivery of which something may have left the lake; a withdrawal may have been interrupted."""


def take_back(ctx: Context, target: AnyTarget, record: RunRecord) -> list[Delivery]:
    """Withdraws what a run that was rolled back has delivered, and delivers its successor; can be repeated.

    Returns the delivery records of both. Raises what the sender raises; what was done until then is done.
    """
    store, found = DeliveryStore(ctx.lake), []
    known = store.of(record.job, target.name)
    mine = next((each for each in known if each.run_id == record.run_id), None)
    successor = _successor(ctx, known, record)
    if mine is not None:
        reason = f"run {record.run_id} was rolled back"
        if mine.state in SENT:
            left = sender_of(target.kind).withdraw(ctx, target, mine, successor)
            reason = f"{reason}; {left}" if left else reason
        withdrawn = DeliveryState.withdrawn
        found.append(
            store.change(record, target, target.kind, lambda stored: stored.with_(state=withdrawn, reason=reason))
        )
    if successor is not None and any(each.ds == record.ds for each in known):
        found.append(deliver(ctx, target, successor))
    return found


def _successor(ctx: Context, known: list[Delivery], record: RunRecord) -> RunRecord | None:
    """Returns the run that is current now: of the period or, if it has none, of the newest one delivered before it.

    None if there is no such run, or if a newer period was delivered, which stays.
    """
    current = ctx.lake.records.last_complete(record.job, record.ds)
    if current is not None or any(each.ds > record.ds and each.is_out for each in known):
        return current
    earlier = {each.ds for each in known if each.delivered_at is not None and each.ds < record.ds}
    runs = (ctx.lake.records.last_complete(record.job, ds) for ds in sorted(earlier, reverse=True))
    return next((run for run in runs if run is not None), None)
