"""What it costs to publish rankings of ten items to Redis: against a plain pipeline, and against `redis-benchmark`."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.context import Context
from pipeline.job.loading import find_job
from pipeline.job.targets import RedisTarget
from pipeline.lake.layout import Lake, Partition
from pipeline.publish.outgoing import opened
from pipeline.publish.redis_reader import columns_of, read
from pipeline.publish.redis_values import values_of
from pipeline.publish.stage import deliver_all
from pipeline.records import RunRecord
from pipeline.settings import Settings
from tests import lakes
from tests.benchmarks.measuring import machine, markdown, write_section
from tests.redis_server import RedisServer, serve

DAYS = ("2026-01-01", "2026-01-02", "2026-01-03")
ITEMS = 10
PART_ROWS = 1_000_000
MOST_ROWS = 10_000_000
PACKED = 'format = "packed"\ncolumns = { items = "top_items", scores = "top_scores" }'
PLAIN = 1_000
"""Commands per pipeline of the plain one."""


@dataclass
class Cost:
    name: str
    rows: int
    wall_s: float
    client_s: float
    server_s: float
    used: int
    peak: int
    """Highest memory of the server so far, in bytes; 0 if it was higher before."""

    def row(self) -> list[object]:
        per_key = [f"{seconds / self.rows * 1e6:.1f}" for seconds in (self.client_s, self.server_s)]
        sizes = [f"{size / 1e6:,.0f}" if size else "" for size in (self.used, self.peak)]
        return [f"{self.rows:,}", self.name, f"{self.wall_s:.1f}", *per_key, *sizes]


def run(scratch: Path, rows: list[int], _repeats: int) -> None:
    costs: list[Cost] = []
    seen: Counter[str] = Counter()
    for count in rows:
        if count <= MOST_ROWS:
            measure(scratch / f"publish-{count}", count, costs, seen)
    columns = ["keys", "", "seconds", "client CPU us per key", "server CPU us per key", "MB afterwards", "MB at most"]
    load = f"load {os.getloadavg()[0]:.0f} from other work"
    read_ = f"While the second period was published, a reader asked {seen['whole']:,} times for 20 keys: "
    read_ += f"{seen['mixed']} mixed, {seen['gaps']} with gaps."
    text = f"{machine()}, {load}.\n\n{markdown(columns, [cost.row() for cost in costs])}\n\n{read_}"
    write_section("publish", text)


def measure(folder: Path, rows: int, costs: list[Cost], seen: Counter[str]) -> None:
    lake = lakes.open_lake(folder / "lake")
    records = [make(lake, ds, rows, seed) for seed, ds in enumerate(DAYS[: 3 if rows <= PART_ROWS else 2])]
    with serve() as server:
        os.environ["LAKESCORE_REDIS_URL"] = server.url
        ctx = context(folder, PACKED)
        costs.append(cost("first period, packed", rows, server, lambda: deliver(ctx, records[0])))
        stop = multiprocessing.get_context("spawn").Event()
        found: Any = multiprocessing.get_context("spawn").Queue()
        reader = multiprocessing.get_context("spawn").Process(target=poll, args=(server.url, rows, stop, found))
        reader.start()
        found.get()  # it reads
        costs.append(cost("second period, packed", rows, server, lambda: deliver(ctx, records[1])))
        stop.set()
        seen.update(found.get())
        reader.join()
        if rows > PART_ROWS:
            return
        for form in ("msgpack", "json"):
            empty(server)
            other = context(folder, PACKED.replace("packed", form))
            costs.append(cost(f"first period, {form}", rows, server, partial(deliver, other, records[2])))
            lake.storage.delete(f"deliveries/job=churn/ds={DAYS[2]}/{records[2].run_id}.t0.json")
        empty(server)
        costs.append(cost("a plain pipeline of SET, packed", rows, server, lambda: plain(ctx, records[0], server)))
        empty(server)
        costs.append(cost("`redis-benchmark -P 100`, SET", rows, server, lambda: floor(server, rows)))


def make(lake: Lake, ds: str, rows: int, seed: int) -> RunRecord:
    """Writes a day of rankings as a complete run leaves it; the first item of each is the day's number."""
    partition, parts = Partition("churn", ds, "v1"), []
    rng = np.random.default_rng(seed)
    for first in range(0, rows, PART_ROWS):
        count = min(PART_ROWS, rows - first)
        items = rng.integers(0, 100_000, (count, ITEMS), np.uint32)
        items[:, 0] = seed
        scores = -np.sort(-rng.random((count, ITEMS), np.float32), axis=1)
        ids = {"id": [f"C{number:09d}" for number in range(first, first + count)]}
        table = lakes.prediction_rows(ids, run=lakes.run_id(ds), ds=ds, labels=[0] * count, classes=0)
        lists = {"top_items": items, "top_scores": scores}
        table = table.drop_columns(["prediction", "prediction_proba"])
        for name, values in lists.items():
            flat = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), ITEMS)
            table = table.append_column(name, flat.cast(pa.list_(flat.type.value_type)))
        parts.append(lakes.add_part(lake, partition, table))
    return lakes.add_run(lake, partition, scored=rows, committed=parts)


def context(folder: Path, lines: str) -> Context:
    job = folder / "jobs" / "churn"
    job.mkdir(parents=True, exist_ok=True)
    text = f'[model]\nname = "m"\n[input]\npath = "{lakes.PATTERN}"\nkey = ["id"]\n'
    (job / "job.toml").write_text(f'{text}[[publish]]\nname = "t0"\nkind = "redis"\n{lines}\n')
    settings = Settings(lake=str(folder / "lake"), jobs=job.parent)
    return Context.open(find_job("churn", settings), settings)


def deliver(ctx: Context, record: RunRecord) -> float:
    if (error := deliver_all(ctx, record).error) is not None:
        raise error
    return 0.0


def plain(ctx: Context, record: RunRecord, server: RedisServer) -> float:
    """The same rows and values as one SET per key, 1,000 per pipeline, without generations and counting."""
    import redis

    (target,) = ctx.job.publish
    assert isinstance(target, RedisTarget)
    client = redis.Redis.from_url(server.url)
    with opened(ctx, target, record) as (con, _):
        for keys, values in values_of(con, target).batches():
            for at in range(0, len(keys), PLAIN):
                pipe = client.pipeline(transaction=False)
                for key, value in zip(keys[at : at + PLAIN], values[at : at + PLAIN], strict=True):
                    pipe.set(b"churn:t0:" + key, value)
                pipe.execute()
    client.close()
    return 0.0


def floor(server: RedisServer, rows: int) -> float:
    """Redis's own load generator: 100 commands per pipeline, values of 80 bytes. Returns its CPU seconds."""
    before = os.times()
    command = ["redis-benchmark", "-p", str(server.port), "-t", "set", "-n", str(rows), "-r", str(rows)]
    subprocess.run([*command, "-d", "80", "-P", "100", "-c", "1", "-q"], check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def poll(url: str, rows: int, stop: Any, found: Any) -> None:
    """Reads 20 keys at a time until `stop`, and counts what each reading is."""
    import redis

    client, seen = redis.Redis.from_url(url), Counter[str]()
    keys = [f"C{number:09d}" for number in range(0, rows, rows // 20)]
    while not stop.is_set():
        pointer, values = read(client, "churn:t0", keys)
        days = {columns_of(pointer, value)["items"][0] for value in values.values()}
        whole = days == {DAYS.index(pointer["ds"])}
        seen["gaps" if len(values) < len(keys) else "whole" if whole else "mixed"] += 1
        if seen.total() == 1:
            found.put(None)
    found.put(seen)


def empty(server: RedisServer) -> None:
    with server.client() as client:
        client.flushall()


def cost(name: str, rows: int, server: RedisServer, work: Callable[[], float]) -> Cost:
    """Measures a call, which returns the CPU seconds of processes that it has started, and the server meanwhile."""
    with server.client() as client:
        busy, peak = server_s(client), client.info("memory")["used_memory_peak"]
        wall, cpu = time.perf_counter(), time.process_time()
        more = work()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu + more
        memory = client.info("memory")
        memory["used_memory_peak"] *= memory["used_memory_peak"] > peak
        found = Cost(name, rows, wall, cpu, server_s(client) - busy, memory["used_memory"], memory["used_memory_peak"])
    print(*found.row(), flush=True)  # noqa: T201 - the next one takes minutes
    return found


def server_s(client: Any) -> float:
    found = client.info("cpu")
    return float(found["used_cpu_user"] + found["used_cpu_sys"])
