"""Reading from Redis what `redis_sender.py` has written: always of one generation, never a mix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.errors import LakescoreError, UsageError, nearest
from pipeline.job.config import Job
from pipeline.publish.redis_connection import connected
from pipeline.publish.redis_generation import pointer_of, shown
from pipeline.publish.redis_sender import prefix_of
from pipeline.publish.redis_values import decoded


def read(client: Any, prefix: str, keys: Sequence[str]) -> tuple[dict[str, str], dict[str, bytes]]:
    """Returns the fields of the pointer, and the values of those of the keys that have one.

    If a key is absent, the pointer may have moved since it was read; then everything is read again. The pointer is
    empty if nothing is published.
    """
    while True:
        pointer = shown(client, prefix)
        if "generation" not in pointer:
            return {}, {}
        generation = pointer["generation"]
        values = [client.get(f"{prefix}:{generation}:{{{key}}}") for key in keys]
        if None not in values or client.hget(pointer_of(prefix), "generation") == generation.encode():
            found = zip(keys, values, strict=True)
            return pointer, {key: value for key, value in found if value is not None}


def columns_of(pointer: dict[str, str], value: bytes) -> dict[str, Any]:
    """Returns a value column by column, as the pointer describes it."""
    return decoded(value, pointer["format"], pointer["columns"].split("\n"), pointer.get("layout", ""))


def look_up(job: Job, key: str, name: str | None = None) -> tuple[dict[str, str], dict[str, Any]]:
    """Returns what Redis serves for a key now: the fields of the pointer, and the value column by column.

    Raises UsageError if the job has no such Redis target, LakescoreError if Redis has nothing for the key.
    """
    all_of_redis = [target for target in job.publish if target.kind == "redis"]
    targets = [target for target in all_of_redis if name in (None, target.name)]
    if len(targets) != 1:
        known = ", ".join(target.name for target in all_of_redis)
        expected = known or 'a [[publish]] table with kind = "redis"'
        if targets:
            raise UsageError("which Redis target?", expected=expected, next_step="--target NAME")
        named = f"{name!r}{nearest(name, [target.name for target in all_of_redis])}" if name else ""
        raise UsageError(f"the job {job.name} has no Redis target {named}".rstrip(), expected=expected)
    prefix = prefix_of(job.name, targets[0])
    with connected(targets[0]) as (client, place):
        pointer, values = read(client, prefix, [key])
    if not pointer:
        raise LakescoreError(
            "nothing is published",
            where=f"{place}, {pointer_of(prefix)}",
            next_step=f"lakescore publish --job {job.name} --date D, D being a day that was run",
        )
    if key not in values:
        raise LakescoreError(f"Redis has nothing for the key {key!r}", where=f"{place}, {pointer['ds']}, {prefix}")
    return pointer, columns_of(pointer, values[key])
