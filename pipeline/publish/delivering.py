"""Delivers a complete run to one target, if it is due there: at most once, and in order."""

from __future__ import annotations

from pipeline.context import Context
from pipeline.errors import LakescoreError
from pipeline.job.targets import AnyTarget
from pipeline.publish.delivery import Delivery, DeliveryState, DeliveryStore
from pipeline.publish.sending import Outgoing, Overtaken, Sent, sender_of
from pipeline.records import RunRecord, now


def deliver(ctx: Context, target: AnyTarget, record: RunRecord, *, replace_newer: bool = False) -> Delivery:
    """Sends a complete run to a target, unless it is there already, is not current, or older than what is there.

    Returns the delivery record. Raises what the sender raises; the record then says `failed`.
    """
    from pipeline.publish.outgoing import basis_of

    store, sender = DeliveryStore(ctx.lake), sender_of(target.kind)
    known = store.of(record.job, target.name)
    mine = next((each for each in known if each.run_id == record.run_id), None)
    newer = [each for each in known if each.is_out and each.ds > record.ds]
    current = ctx.lake.records.last_complete(record.job, record.ds)
    if current is None or current.run_id != record.run_id:
        return put(store, record, target, DeliveryState.superseded, "another run of the period is current")
    basis = basis_of(ctx.lake, target, record)
    if mine is not None and mine.state is DeliveryState.delivered and not (newer and replace_newer):
        if newer:
            since = f"{max(each.ds for each in newer)}, a newer period, was delivered since"
            return mine.with_(reason=f"{since}; --force-older sends {mine.ds} again")
        if mine.basis == basis and sender.stands(ctx, target, mine):
            return mine
    if newer and not replace_newer:
        return put(store, record, target, DeliveryState.held, f"{newer[-1].ds}, a newer period, was delivered before")
    return _send(ctx, target, record, known, basis, replace_newer=replace_newer)


def _send(
    ctx: Context, target: AnyTarget, record: RunRecord, known: list[Delivery], basis: str, *, replace_newer: bool
) -> Delivery:
    from pipeline.publish.outgoing import opened

    store = DeliveryStore(ctx.lake)
    standing = [each for each in known if each.state is DeliveryState.delivered and each.delivered_at is not None]
    previous = max(standing, key=lambda each: each.delivered_at or each.at, default=None)
    begun = store.change(
        record,
        target,
        target.kind,
        lambda stored: stored.with_(
            state=DeliveryState.delivering, attempts=stored.attempts + 1, basis=basis, reason=None
        ),
    )
    if begun.state is not DeliveryState.delivering:
        return begun
    try:
        with opened(ctx, target, record) as (con, rows):
            outgoing = Outgoing(
                ctx, target, record, con, rows, previous, tuple(known), now(), replaces_newer=replace_newer
            )
            sent = sender_of(target.kind).send(outgoing)
    except Overtaken as overtaken:
        return put(store, record, target, DeliveryState.held, str(overtaken))
    except BaseException as error:
        put(store, record, target, DeliveryState.failed, _in_one_line(error))
        raise
    return _delivered(ctx, target, record, sent, known)


def _in_one_line(error: BaseException) -> str:
    if not isinstance(error, LakescoreError):
        return type(error).__name__
    return error.what if error.where is None else f"{error.what} ({error.where})"


def _delivered(ctx: Context, target: AnyTarget, record: RunRecord, sent: Sent, known: list[Delivery]) -> Delivery:
    """Records a delivery; that of a run that was rolled back meanwhile stays withdrawn."""
    store = DeliveryStore(ctx.lake)
    artifacts = {"artifacts": list(sent.artifacts)} if sent.artifacts else {}

    def changed(stored: Delivery) -> Delivery:
        withdrawn = stored.state is DeliveryState.withdrawn
        return stored.with_(
            state=DeliveryState.withdrawn if withdrawn else DeliveryState.delivered,
            rows=sent.rows,
            digest=sent.digest,
            place=sent.place,
            delivered_at=now(),
            details={**sent.details, **artifacts},
            reason=stored.reason if withdrawn else None,
        )

    done = store.change(record, target, target.kind, changed)
    for other in known:
        if other.run_id != record.run_id:
            _settle(ctx, target, other, record)
    return done


def _settle(ctx: Context, target: AnyTarget, other: Delivery, record: RunRecord) -> None:
    """Marks deliveries that this one replaces: of the same period or, on demand, a newer one; or left unfinished."""
    replaced = other.is_out and other.ds >= record.ds
    left = other.state in (DeliveryState.delivering, DeliveryState.failed) and other.ds <= record.ds
    if replaced or left:
        why = f"run {record.run_id} of {record.ds} was delivered {'in its place' if replaced else 'after it'}"
        of = ctx.lake.records.read(other.job, other.ds, other.run_id)
        put(DeliveryStore(ctx.lake), of, target, DeliveryState.superseded, why)


def put(store: DeliveryStore, record: RunRecord, target: AnyTarget, state: DeliveryState, reason: str) -> Delivery:
    def changed(stored: Delivery) -> Delivery:
        return stored.with_(state=state, reason=reason)

    return store.change(record, target, target.kind, changed)
