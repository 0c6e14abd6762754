"""Slow: writers that are killed while readers poll, and a cluster."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from pipeline.publish.delivery import DeliveryStore
from pipeline.publish.redis_generation import shown
from pipeline.publish.redis_reader import columns_of, look_up, read
from pipeline.publish.stage import deliver_all
from tests.publish.conftest import Publisher
from tests.redis_server import RedisServer, free_port, serve

pytestmark = pytest.mark.slow
DAYS = {"2026-01-01": 0.25, "2026-01-02": 0.75}
PREFIX = "churn:t0"
ROWS = 20_000
TARGET = 'kind = "redis"\ncolumns = ["prediction_proba"]'


def poll(url: str, over: threading.Event, seen: Counter[str]) -> None:
    """Reads 20 keys at a time, and counts what each reading is: of which day, mixed, or with gaps."""
    client = redis.Redis.from_url(url)
    keys = [f"u{row}" for row in range(0, ROWS, ROWS // 20)]
    while not over.is_set():
        pointer, values = read(client, PREFIX, keys)
        found = {columns_of(pointer, value)["prediction_proba"] for value in values.values()}
        mixed = found != {DAYS[pointer["ds"]]}
        seen["mixed" if mixed else "gaps" if len(values) < len(keys) else pointer["ds"]] += 1
    client.close()


def test_readers_see_whole_periods_while_writers_are_killed(publisher: Publisher, redis_url: str) -> None:
    ctx = publisher.job(TARGET)
    for ds, value in DAYS.items():
        publisher.day(ds, rows=ROWS, probabilities=[value] * ROWS)
    first = publisher.lake.records.last_complete("churn", "2026-01-01")
    assert first is not None
    assert deliver_all(ctx, first).error is None
    seen, over = Counter[str](), threading.Event()
    readers = [threading.Thread(target=poll, args=(redis_url, over, seen)) for _ in range(2)]
    for reader in readers:
        reader.start()
    program = [sys.executable, str(Path(__file__).with_name("killed_writer.py")), str(ctx.job.folder)]
    try:
        done = subprocess.run(
            [*program, str(publisher.root / "lake"), "40", "7"], capture_output=True, text=True, check=False
        )
    finally:
        over.set()
        for reader in readers:
            reader.join()
    assert done.returncode == 0, done.stderr
    ended = json.loads(done.stdout)
    assert ended["killed"] >= 20
    assert any("delivering" in name for name in ended), "no writer was killed between its first and its last key"
    assert "exit 1" not in ended, done.stderr
    assert (seen["mixed"], seen["gaps"]) == (0, 0), seen
    assert min(seen[ds] for ds in DAYS) > 0, "the readers saw both days"
    last = publisher.lake.records.last_complete("churn", "2026-01-02")
    assert last is not None
    for record in (first, last):  # what readers do not see is sent, and each attempt removes what others have left
        assert deliver_all(ctx, record, replace_newer=True).error is None
    client = redis.Redis.from_url(redis_url)
    assert client.dbsize() == ROWS + 1, "nothing is left of what was interrupted"
    assert not [name for name in shown(client, PREFIX) if name.startswith(("left:", "writer"))]
    client.close()


# A cluster


@contextlib.contextmanager
def cluster() -> Iterator[list[RedisServer]]:
    """Three servers, each with a third of the slots."""
    with contextlib.ExitStack() as servers:
        found = [
            servers.enter_context(serve("--cluster-enabled", "yes", "--cluster-port", str(free_port())))
            for _ in range(3)
        ]
        clients = [servers.enter_context(server.client()) for server in found]
        for number, client in enumerate(clients):
            client.execute_command("CLUSTER ADDSLOTSRANGE", number * 5462, min(number * 5462 + 5461, 16383))
            bus = int(found[0].options[-1])
            client.execute_command("CLUSTER MEET", "127.0.0.1", found[0].port, bus)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not all(
            client.cluster("info")["cluster_state"] == "ok" and len(client.cluster("nodes")) == 3 for client in clients
        ):
            time.sleep(0.1)
        yield found


def test_cluster_spreads_the_keys_and_serves_whole_periods(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = f"{TARGET}\ncluster = true"
    days = [publisher.day(ds, rows=3_000 - 500 * number) for number, ds in enumerate(DAYS)]
    with cluster() as servers:
        monkeypatch.setenv("LAKESCORE_REDIS_URL", servers[1].url)
        assert "cluster = true" in str(deliver_all(publisher.job(TARGET), days[0]).error)
        for day in days:
            assert deliver_all(publisher.job(lines), day).error is None
        sizes = [size(server) for server in servers]
        assert sum(sizes) == 2_501
        assert min(sizes) > 700
        assert look_up(publisher.job(lines).job, "u7")[1] == {"prediction_proba": 0.75}
        older = publisher.day("2025-12-31")
        assert deliver_all(publisher.job(lines), older).error is None
        assert [
            each.state.value for each in DeliveryStore(publisher.lake).of("churn") if each.run_id == older.run_id
        ] == ["held"]
        servers[0].stop()
        error = deliver_all(publisher.job(lines), publisher.day("2026-01-03")).error
        assert error is not None
        assert error.transient


def size(server: RedisServer) -> int:
    with server.client() as client:
        return int(client.dbsize())


def test_server_that_dies_while_it_is_written_to_keeps_the_period_before(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The server is restarted from its append-only file, as after a crash of its machine."""
    options = ("--appendonly", "yes", "--appendfsync", "always")
    with serve(*options) as server:
        monkeypatch.setenv("LAKESCORE_REDIS_URL", server.url)
        assert deliver_all(publisher.job(TARGET), publisher.day("2026-01-01")).error is None
        big = publisher.day("2026-01-02", rows=ROWS)
        timer = threading.Thread(target=stop_at, args=(server, 6_000))
        timer.start()
        error = deliver_all(publisher.job(TARGET), big).error
        timer.join()
        assert error is not None
        assert error.transient
        server.start()
        with redis.Redis.from_url(server.url) as client:
            assert shown(client, PREFIX)["ds"] == "2026-01-01"
            assert client.dbsize() > 6
            assert look_up(publisher.job(TARGET).job, "u3")[0]["ds"] == "2026-01-01"
            assert deliver_all(publisher.job(TARGET), big).error is None
            assert client.dbsize() == ROWS + 1


def stop_at(server: RedisServer, keys: int) -> None:
    with server.client() as client:
        while client.dbsize() < keys:
            pass
    server.stop()
