"""Generations in Redis: immutable keys that become visible, all at once, when the pointer to them changes.

    <prefix>:current               the pointer, a hash: `generation`, and what it is (run, model, period, format)
    <prefix>:<generation>:{<key>}  one value; the braces spread the keys over a cluster by the key of the prediction

Each attempt writes a generation of its own, and claims the pointer first, in its field `writer`. The pointer moves only
to the generation that holds the claim, and never to an older order. So a writer that was overtaken, or thought dead,
can still write keys but never show them, and what it has written may be removed. The fields `left:<generation>` name
the generations that are not shown: what is being written, and what is still to be removed.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

SLICE = 1_000
"""Keys per command."""

CLAIM = """
local now = redis.call('HMGET', KEYS[1], 'generation', 'order', 'rows')
if now[1] and ARGV[3] == '0' and now[2] > ARGV[2] then return {'older', now[2]} end
redis.call('HSET', KEYS[1], 'writer', ARGV[1], 'left:' .. ARGV[1], ARGV[2])
return {'claimed', now[1] or '', now[3] or '0'}
"""
FLIP = """
local now = redis.call('HMGET', KEYS[1], 'writer', 'generation', 'order')
if now[2] == ARGV[1] then return {'flipped'} end
if now[1] ~= ARGV[1] then return {'fenced'} end
if now[2] and ARGV[3] == '0' and now[3] > ARGV[2] then return {'older', now[3]} end
if now[2] then redis.call('HSET', KEYS[1], 'left:' .. now[2], now[3]) end
redis.call('HDEL', KEYS[1], 'writer', 'left:' .. ARGV[1])
redis.call('HSET', KEYS[1], 'generation', ARGV[1], 'order', ARGV[2], unpack(ARGV, 5))
if ARGV[4] == '' then redis.call('PERSIST', KEYS[1]) else redis.call('EXPIREAT', KEYS[1], ARGV[4]) end
return {'flipped'}
"""
ABANDON = """
local now = redis.call('HMGET', KEYS[1], 'writer', 'generation')
if now[2] == ARGV[1] then return 0 end
if now[1] == ARGV[1] then redis.call('HDEL', KEYS[1], 'writer') end
return 1
"""
RELEASE = """
if redis.call('HGET', KEYS[1], 'run_id') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'order', '')
return 1
"""
CLEAR = """
local now = redis.call('HMGET', KEYS[1], 'run_id', 'generation')
if now[1] ~= ARGV[1] then return 0 end
local names = redis.call('HKEYS', KEYS[1])
for _, name in ipairs(names) do
    if name ~= 'writer' and string.sub(name, 1, 5) ~= 'left:' then redis.call('HDEL', KEYS[1], name) end
end
redis.call('HSET', KEYS[1], 'left:' .. now[2], '')
return 1
"""


class Older(Exception):
    """The pointer has a newer order."""


class Fenced(Exception):
    """Another process has claimed the pointer since."""


@dataclass
class Generation:
    """A generation that is being written."""

    client: Any
    prefix: str
    order: str
    """Text by which generations are ordered: the period, then the end of the run."""
    replaces_newer: bool = False
    clustered: bool = False
    name: str = field(default_factory=lambda: secrets.token_hex(4))
    before: str = ""
    """Name of the generation that readers see; empty if there is none."""
    before_rows: int = 0

    @property
    def pointer(self) -> str:
        return pointer_of(self.prefix)

    def head(self, name: str | None = None) -> bytes:
        """Returns how each key of a generation begins; `}` ends it."""
        return f"{self.prefix}:{name or self.name}:{{".encode()

    def claim(self) -> None:
        """Makes this process the one that may move the pointer. Raises Older."""
        said = self._script(CLAIM, self.name, self.order, self._forced)
        if said[0] == b"older":
            raise Older(said[1].decode())
        self.before, self.before_rows = said[1].decode(), int(said[2])

    def write(self, keys: Sequence[bytes], values: Sequence[bytes], expires_at: int | None) -> None:
        """Writes one slice of full keys. Raises Fenced if another process has claimed the pointer since."""
        pipe = self.client.pipeline(transaction=False)
        if self.clustered:
            for key, value in zip(keys, values, strict=True):
                pipe.set(key, value, exat=expires_at)
        else:
            pipe.mset(dict(zip(keys, values, strict=True)))
            for key in keys if expires_at is not None else ():
                pipe.expireat(key, expires_at)
        pipe.hget(self.pointer, "writer")
        if pipe.execute()[-1] != self.name.encode():
            raise Fenced

    def count(self, slices: Iterable[Sequence[bytes]]) -> int:
        """Returns how many of the keys exist."""
        return sum(self._of_each(keys, "exists") for keys in slices)

    def flip(self, fields: Mapping[str, str], expires_at: int | None) -> None:
        """Moves the pointer to this generation, if it still holds the claim. Raises Fenced or Older."""
        pairs = [text for pair in fields.items() for text in pair]
        expires = "" if expires_at is None else str(expires_at)
        said = self._script(FLIP, self.name, self.order, self._forced, expires, *pairs)
        if said[0] == b"older":
            raise Older(said[1].decode())
        if said[0] != b"flipped":
            raise Fenced

    def abandon(self) -> None:
        """Removes this generation after an error, unless the pointer has moved to it."""
        if self._script(ABANDON, self.name):
            self.remove(self.name)

    def remove_left(self) -> None:
        """Removes what other attempts have left behind: since the claim, none of them can be shown any more."""
        for name in left_of(self.client, self.prefix):
            if name not in (self.name, self.before):
                self.remove(name)

    def remove(self, name: str, slices: Iterable[Sequence[bytes]] = (), rows: int | None = None) -> None:
        """Removes the keys of a generation: those given and, unless they are all of its `rows`, those found by SCAN."""
        removed = sum(self._of_each(keys, "unlink") for keys in slices)
        if removed != rows:
            remove_by_scan(self.client, self.head(name), self._of_each)
        self.client.hdel(self.pointer, f"left:{name}")

    def _of_each(self, keys: Sequence[bytes], command: str) -> int:
        if not self.clustered:
            return int(getattr(self.client, command)(*keys))
        pipe = self.client.pipeline(transaction=False)
        for key in keys:
            getattr(pipe, command)(key)
        return sum(pipe.execute())

    @property
    def _forced(self) -> str:
        return "1" if self.replaces_newer else "0"

    def _script(self, text: str, *arguments: str) -> Any:
        return self.client.eval(text, 1, self.pointer, *arguments)


def remove_by_scan(client: Any, head: bytes, unlink: Callable[[Sequence[bytes], str], int]) -> None:
    escaped = b"".join(b"\\" + bytes([each]) if each in b"*?[]\\^-" else bytes([each]) for each in head)
    found = client.scan_iter(match=escaped + b"*", count=SLICE)
    while keys := list(islice(found, SLICE)):
        unlink(keys, "unlink")


def pointer_of(prefix: str) -> str:
    return f"{prefix}:current"


def left_of(client: Any, prefix: str) -> list[str]:
    """Returns the generations that are not shown: being written, or still to be removed."""
    names = (name.decode() for name in client.hkeys(pointer_of(prefix)))
    return [name.removeprefix("left:") for name in names if name.startswith("left:")]


def shown(client: Any, prefix: str) -> dict[str, str]:
    """Returns the fields of the pointer; without `generation`, nothing is published."""
    return {name.decode(): value.decode() for name, value in client.hgetall(pointer_of(prefix)).items()}


def release(client: Any, prefix: str, run_id: str) -> None:
    """Lets any other generation replace that of a run, which stays visible until then."""
    client.eval(RELEASE, 1, pointer_of(prefix), run_id)


def clear(client: Any, prefix: str, run_id: str, *, clustered: bool) -> None:
    """Makes the generation of a run invisible without a successor, and removes what is not shown nor being written."""
    client.eval(CLEAR, 1, pointer_of(prefix), run_id)
    writer = shown(client, prefix).get("writer")
    for name in left_of(client, prefix):
        if name != writer:
            Generation(client, prefix, "", clustered=clustered).remove(name)
