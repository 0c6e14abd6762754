"""Connections to Redis: the URL with its secrets comes from the environment, and errors say what to do."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qs, urlsplit

from pipeline.errors import DeliveryFailed, DeliveryRefused, UsageError
from pipeline.job.targets import RedisTarget

if TYPE_CHECKING:
    from redis.exceptions import RedisClusterException, RedisError

CONNECT_S = 10
ANSWER_S = 60
SCHEMES = ("redis", "rediss", "unix")
PASSING = ("MISCONF", "NOREPLICAS", "BUSY")
"""Beginnings of the errors of a server that end by themselves, or once it has been looked after, without a class."""


@contextmanager
def connected(target: RedisTarget, environ: Mapping[str, str] = os.environ) -> Iterator[tuple[Any, str]]:
    """Yields a client of the server, or of the cluster, and its address without secrets.

    Raises UsageError for a variable without a valid URL. Redis's errors inside become DeliveryFailed if a retry may
    help, else DeliveryRefused.
    """
    try:
        import redis
    except ModuleNotFoundError:
        raise UsageError("Redis needs the package redis", next_step="pip install 'lakescore[redis]'") from None
    url = environ.get(target.url, "")
    place = _place(target, url)
    try:
        client = _client(target, url)
        try:
            yield client, place
        finally:
            client.close()
    except (redis.RedisError, redis.exceptions.RedisClusterException) as error:
        raise translated(error, place) from None  # the text of the error may have keys and values in it


def _client(target: RedisTarget, url: str) -> Any:
    import redis

    try:
        if target.cluster:
            return redis.RedisCluster.from_url(url, socket_connect_timeout=CONNECT_S, socket_timeout=ANSWER_S)
        client = redis.Redis.from_url(url, socket_connect_timeout=CONNECT_S, socket_timeout=ANSWER_S)
        client.connection_pool.make_connection()  # looks at the options, without connecting
    except (ValueError, TypeError):
        raise _not_a_url(target, "an option that the client does not know, or with a wrong value") from None
    return client


def _place(target: RedisTarget, url: str) -> str:
    if not url:
        raise UsageError(
            f"the environment variable {target.url} is not set",
            expected="redis://user:password@host:6379/0, or rediss:// with TLS",
            next_step="set it where lakescore runs; `url` of the target names the variable",
        )
    try:
        parts = urlsplit(url)
        port = parts.port or 6379
    except ValueError:
        raise _not_a_url(target, "an invalid host or port") from None
    if parts.scheme not in SCHEMES:
        raise _not_a_url(target, f"{parts.scheme}://" if parts.scheme and parts.netloc else "no scheme")
    if problem := _problem(parts, clustered=target.cluster):
        raise _not_a_url(target, problem)
    if parts.scheme == "unix":
        return f"unix://{parts.path}"
    return f"{parts.scheme}://{parts.hostname}:{port}{parts.path.rstrip('/')}"


def _problem(parts: SplitResult, *, clustered: bool) -> str | None:
    """Returns what the client would misunderstand without saying so: it takes database 0 for one that is no number."""
    if "@" in parts.path + parts.query + parts.fragment:
        return "a user or password with / ? # or @ in it: write %2F %3F %23 %40 for them"
    if "decode_responses" in parse_qs(parts.query):
        return "decode_responses, but the values are bytes"
    if parts.scheme == "unix":
        return None if parts.path else "no path of a socket"
    if not parts.hostname:
        return "no host"
    if not re.fullmatch(r"/?\d*", parts.path):
        return "a database that is not a number"
    return "a database other than 0, but a cluster has no other" if clustered and parts.path.strip("/0") else None


def _not_a_url(target: RedisTarget, got: str) -> UsageError:
    expected = "redis://user:password@host:6379/0, or rediss:// with TLS"
    return UsageError(f"{target.url} does not hold the URL of a Redis server", expected=expected, got=got)


def text_of(error: Exception) -> str:
    """Returns what the server said, without the command: that has keys and predictions in it."""
    text = str(error).rpartition(" of pipeline caused error: ")[2]
    return text.partition("\n")[0].partition(", with args beginning with")[0]


def translated(error: RedisError | RedisClusterException, place: str) -> DeliveryFailed | DeliveryRefused:
    """Returns the error to raise for one of Redis's own."""
    from redis import exceptions as kinds

    if isinstance(error, kinds.RedisClusterException) and isinstance(error.__cause__, kinds.RedisError):
        error = error.__cause__
    text = text_of(error)
    clustered = isinstance(error, kinds.AskError | kinds.ClusterCrossSlotError)
    if clustered or "Cluster mode is not enabled" in text:
        return DeliveryRefused(
            f"the server is {'part of' if clustered else 'not part of'} a Redis Cluster",
            where=place,
            got=text,
            next_step=f"cluster = {'true' if clustered else 'false'} in the [[publish]] table",
        )
    if isinstance(error, kinds.AuthenticationError | kinds.AuthorizationError | kinds.NoPermissionError):
        return DeliveryRefused(
            "Redis refuses the user, the password or a command",
            where=place,
            got=text,
            next_step="docs/publish.md lists the commands that the user of the URL needs",
        )
    if "certificate" in text.lower() or "wrong version number" in text.lower():
        return DeliveryRefused(
            "no TLS connection to Redis is possible",
            where=place,
            got=text,
            next_step="name the authority in the URL: rediss://...?ssl_ca_certs=/path/ca.pem",
        )
    if isinstance(error, kinds.OutOfMemoryError):
        return DeliveryFailed(
            "Redis is full: it has reached its maxmemory",
            where=place,
            got=text,
            next_step="raise maxmemory; two generations must fit. Readers still see the one before",
        )
    unreachable = kinds.ConnectionError | kinds.TimeoutError | kinds.ClusterError | kinds.RedisClusterException
    if isinstance(error, unreachable | kinds.ReadOnlyError | kinds.TryAgainError) or text.startswith(PASSING):
        return DeliveryFailed(
            "Redis cannot be reached, or does not answer now",
            where=place,
            got=f"{type(error).__name__}: {text}",
            next_step="run again once it does; readers see what they saw before",
        )
    return DeliveryRefused("Redis refuses a command", where=place, got=text)
