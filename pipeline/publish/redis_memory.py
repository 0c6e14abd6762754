"""Tells before a generation is written whether Redis has room for it, and whether it may evict keys."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.errors import DeliveryFailed, DeliveryRefused
from pipeline.job.targets import RedisTarget

log = logging.getLogger(__name__)

OVERHEAD_BYTES = 100
"""What Redis needs for a key beside the bytes of key and value: objects, headers, the hash table and its growth."""
SAMPLE = 1_000
FIELDS = ("maxmemory", "maxmemory_policy", "used_memory", "total_system_memory")
"""What is read of INFO's section `memory`."""


def check_memory(
    client: Any,
    target: RedisTarget,
    place: str,
    head_bytes: int,
    keys: Sequence[bytes],
    values: Sequence[bytes],
    rows: int,
) -> None:
    """Raises DeliveryFailed if `rows` like these do not fit beside the generation that readers see.

    Raises DeliveryRefused if the server may evict keys: readers would miss some of them. What a server does not tell,
    as some that only speak Redis's protocol do not, is logged as not checked.
    """
    sample = list(zip(keys[:SAMPLE], values[:SAMPLE], strict=True))
    each = OVERHEAD_BYTES + head_bytes + 1 + sum(len(key) + len(value) for key, value in sample) / len(sample)
    servers = list(_memory_of_each(client, clustered=target.cluster))
    needed = int(each * rows / len(servers))
    for found in servers:
        if missing := [name for name in FIELDS if name not in found]:
            log.warning(
                "%s does not tell %s: whether it has room, or may evict keys, is not fully checked",
                place,
                ", ".join(missing),
            )
        limit, policy = int(found.get("maxmemory", 0)), str(found.get("maxmemory_policy", ""))
        if limit and (policy.startswith("allkeys") or (policy.startswith("volatile") and target.ttl is not None)):
            raise DeliveryRefused(
                "Redis may evict keys when it is full, and readers would miss them",
                where=place,
                expected="maxmemory-policy noeviction"
                + ("; without `ttl`, a volatile policy is safe, too" if target.ttl else ", or a volatile one"),
                got=policy,
                next_step="change the policy, or use a server of its own; check_memory = false accepts the loss",
            )
        limit = limit or int(found.get("total_system_memory", 0))
        used = int(found.get("used_memory", 0))
        if limit and used + needed > limit:
            raise DeliveryFailed(
                "Redis has no room for a second generation beside the one that readers see",
                where=place,
                expected=f"about {_megabytes(needed)} free for {rows:,} keys of {each:.0f} bytes",
                got=f"{_megabytes(max(limit - used, 0))} free of {_megabytes(limit)}",
                next_step="raise maxmemory, or send less: `where`, `columns`, format = 'packed'",
            )


def _memory_of_each(client: Any, *, clustered: bool) -> Iterator[dict[str, Any]]:
    """Yields the section `memory` of INFO of each server that takes writes."""
    if not clustered:
        yield client.info("memory")
        return
    for node in client.get_primaries():
        yield client.info("memory", target_nodes=node)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
