"""Sends a period to Redis as a new generation: written, counted, and only then shown (see `redis_generation.py`)."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain

from pipeline.context import Context
from pipeline.errors import CommitConflict, DeliveryFailed, DeliveryRefused
from pipeline.job.schedule import seconds
from pipeline.job.targets import RedisTarget
from pipeline.publish import redis_generation
from pipeline.publish.delivery import Delivery
from pipeline.publish.redis_connection import connected, text_of
from pipeline.publish.redis_generation import SLICE, Fenced, Generation, Older
from pipeline.publish.redis_memory import check_memory
from pipeline.publish.redis_values import Values, values_of
from pipeline.publish.sending import Outgoing, Overtaken, Sent
from pipeline.records import RunRecord

log = logging.getLogger(__name__)


class RedisSender:
    def stands(self, ctx: Context, target: RedisTarget, delivery: Delivery) -> bool:
        """Tells whether readers see the delivered generation."""
        with connected(target) as (client, _):
            now = redis_generation.shown(client, prefix_of(ctx.job.name, target))
            return now.get("generation") == delivery.details.get("generation")

    def send(self, outgoing: Outgoing) -> Sent:
        target: RedisTarget = outgoing.target
        _check_rows(outgoing, target)
        with connected(target) as (client, place):
            generation = Generation(
                client,
                prefix_of(outgoing.ctx.job.name, target),
                order_of(outgoing.record),
                replaces_newer=outgoing.replaces_newer,
                clustered=target.cluster,
            )
            try:
                return _Sending(outgoing, target, generation, place).run()
            except Older as older:
                raise Overtaken(f"{older.args[0].partition('/')[0]} was published to {place} before") from None
            except Fenced:
                raise CommitConflict(
                    "another process has begun to publish to the same keys",
                    where=f"{place}, {generation.pointer}",
                    next_step="run again once it has ended; if both are other jobs or targets, give one another prefix",
                ) from None

    def withdraw(
        self, ctx: Context, target: RedisTarget, delivery: Delivery, successor: RunRecord | None
    ) -> str | None:
        """Lets the successor's generation replace that of the run; without a successor, removes it.

        Goes by the run that the pointer names: a writer may have been killed before it could record its generation.
        """
        prefix = prefix_of(ctx.job.name, target)
        with connected(target) as (client, _):
            if successor is None:
                redis_generation.clear(client, prefix, delivery.run_id, clustered=target.cluster)
            else:
                redis_generation.release(client, prefix, delivery.run_id)
        return None


def _check_rows(outgoing: Outgoing, target: RedisTarget) -> None:
    """Raises DeliveryRefused if readers would find nothing, which a mistake in `where` does as well.

    What a run has delivered may become empty later, by an erasure.
    """
    before = any(each.run_id == outgoing.record.run_id and each.delivered_at for each in outgoing.known)
    if outgoing.rows or target.may_be_empty or before:
        return
    raise DeliveryRefused(
        f"no row of {outgoing.record.ds} is to be sent: readers would find nothing",
        expected=f"predictions with {target.where}" if target.where else "predictions",
        got="0 rows",
        next_step="correct `where`, or set may_be_empty = true under this target in job.toml",
    )


def prefix_of(job: str, target: RedisTarget) -> str:
    return target.prefix or f"{job}:{target.name}"


def order_of(record: RunRecord) -> str:
    """Returns the text by which generations are ordered: the period, then the end of the run."""
    ended = (record.finished_at or record.started_at).astimezone(UTC)
    return f"{record.ds}/{ended:%Y%m%dT%H%M%S%f}/{record.run_id}"


class _Sending:
    """One attempt."""

    def __init__(self, outgoing: Outgoing, target: RedisTarget, generation: Generation, place: str) -> None:
        self._outgoing = outgoing
        self._target = target
        self._generation = generation
        self._place = place
        self._digest = hashlib.sha256()
        self._lake = outgoing.ctx.lake.identity()
        self._expires_at = None if target.ttl is None else int(outgoing.as_of.timestamp()) + seconds(target.ttl)

    def run(self) -> Sent:
        outgoing, generation = self._outgoing, self._generation
        values = values_of(outgoing.con, self._target)
        self._check_owner()
        generation.claim()
        try:
            generation.remove_left()
            rows = self._write(values)
            self._check(rows, generation.count(self._slices(values)))
            generation.flip(self._fields(values, rows), self._expires_at)
        except BaseException:
            self._abandon()
            raise
        self._remove_before(values)
        return Sent(
            rows, self._digest.hexdigest(), f"{self._place}, {generation.pointer}", {"generation": generation.name}
        )

    def _check_owner(self) -> None:
        """Raises DeliveryRefused if another lake, job or target publishes to the same keys.

        Pointers of earlier versions do not name the lake.
        """
        now = redis_generation.shown(self._generation.client, self._generation.prefix)
        mine = {"job": self._outgoing.record.job, "target": self._target.name, "lake": self._lake}
        others = {name: now[name] for name in mine if name in now}
        if any(mine[name] != value for name, value in others.items()):
            raise DeliveryRefused(
                "another lake, job or target publishes to the same keys",
                where=f"{self._place}, {self._generation.pointer}",
                expected=", ".join(f"{name} {value}" for name, value in mine.items()),
                got=", ".join(f"{name} {value}" for name, value in others.items()),
                next_step="give this target another `prefix`; if this lake, job or target has taken the place of that "
                "one, delete the pointer",
            )

    def _write(self, values: Values) -> int:
        head, rows, total = self._generation.head(), 0, self._outgoing.rows
        keys_expire_at = None if self._expires_at is None else self._expires_at + 60  # the pointer vanishes first
        for keys, found in values.batches():
            if not rows and self._target.check_memory:
                check_memory(self._generation.client, self._target, self._place, len(head), keys, found, total)
            for at in range(0, len(keys), SLICE):
                names, texts = keys[at : at + SLICE], found[at : at + SLICE]
                self._generation.write([head + key + b"}" for key in names], texts, keys_expire_at)
                pairs = zip(names, texts, strict=True)
                self._digest.update(b"".join(chain.from_iterable(_netstrings(key, text) for key, text in pairs)))
            rows += len(keys)
            self._outgoing.ctx.progress("publish", rows, total)
        return rows

    def _slices(self, values: Values, name: str | None = None) -> Iterator[Sequence[bytes]]:
        """Yields the full keys of this generation, or of an earlier one, in slices."""
        head = self._generation.head(name)
        for keys in values.read_keys():
            for at in range(0, len(keys), SLICE):
                yield [head + key + b"}" for key in keys[at : at + SLICE]]

    def _check(self, written: int, counted: int) -> None:
        expected = self._outgoing.rows
        if written == counted == expected:
            return
        raise DeliveryFailed(
            "Redis does not hold all rows that were sent, so readers still see the generation before",
            where=f"{self._place}, {self._generation.pointer}",
            expected=f"{expected:,} rows, as counted over the committed predictions",
            got=f"{written:,} written, {counted:,} found again",
            next_step="run again; if it stays so, something else removes keys, or `where` is not the same twice",
        )

    def _fields(self, values: Values, rows: int) -> dict[str, str]:
        record = self._outgoing.record
        return {
            "job": record.job,
            "target": self._target.name,
            "lake": self._lake,
            "ds": record.ds,
            "run_id": record.run_id,
            "model_name": record.model.name,
            "model_version": record.model.version,
            "model_digest": record.model.digest,
            "rows": str(rows),
            "sha256": self._digest.hexdigest(),
            "format": self._target.format,
            "columns": "\n".join(values.columns),
            "layout": values.layout,
            "published_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def _abandon(self) -> None:
        """Removes what was written; if Redis does not answer, the next attempt does."""
        try:
            self._generation.abandon()
        except Exception as error:  # noqa: BLE001 - the error that matters is the one before
            log.warning("what was written to %s could not be removed: %s", self._place, type(error).__name__)

    def _remove_before(self, values: Values) -> None:
        """Removes the generation that readers saw before. It is not visible any more, so an error is not fatal."""
        before = self._generation.before
        if not before or before == self._generation.name:
            return
        try:
            self._generation.remove(before, self._slices(values, before), self._generation.before_rows)
        except Exception as error:  # noqa: BLE001 - as above: the next publication removes the rest
            log.warning("the generation %s in %s could not be removed: %s", before, self._place, text_of(error))


def _netstrings(key: bytes, value: bytes) -> tuple[bytes, ...]:
    """Returns key and value with their lengths, so that the digest tells them apart."""
    return (b"%d:" % len(key), key, b",%d:" % len(value), value, b",")
