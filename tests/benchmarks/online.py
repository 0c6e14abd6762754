"""One row at a time against a day at once: what a run, a call of `Scorer` and a lookup in Redis cost and take."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UsageError
from tests.benchmarks import workspaces
from tests.benchmarks.measuring import machine, markdown, median, python, write_section
from tests.benchmarks.parts import DAY
from tests.redis_server import RedisServer, serve

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.api.scorer import Scorer

SERVED = "served"
"""The job `core` with a target in Redis."""
TARGET = '\n[[publish]]\nname = "serving"\nkind = "redis"\n'
CALLS, WARM_UP, ROUNDS = 250, 250, 40
AT_ONCE = {100: 250, 10_000: 20}
"""Calls per round, by rows at once."""


@dataclasses.dataclass(frozen=True)
class Calls:
    """What it takes to call something many times, one after another: the quietest of ROUNDS rounds."""

    name: str
    p50_s: float
    p99_s: float
    cpu_s: float
    """CPU seconds per row of the process that calls."""

    def row(self) -> list[object]:
        times = [f"{seconds * 1e3:.2f} ms" for seconds in (self.p50_s, self.p99_s)]
        return [self.name, *times, f"{self.cpu_s * 1e6:,.1f}"]


def run(scratch: Path, rows: list[int], repeats: int) -> None:
    count = min(rows)
    folder = workspaces.make(scratch, count)
    jobs = folder / "dags" / "jobs"
    (jobs / SERVED).mkdir()
    (jobs / SERVED / "job.toml").write_text((jobs / workspaces.CORE / "job.toml").read_text() + TARGET)
    batch = [_batch(folder, job, count, repeats) for job in (workspaces.CORE, workspaces.FULL)]
    with serve() as server:
        os.environ["LAKESCORE_REDIS_URL"] = server.url
        command = ["run", "--job", SERVED, "--date", DAY, "--json"]
        python("-m", "pipeline", *command, cwd=folder)
        memory = _memory(server) / count
        found = json.loads(python("-m", "tests.benchmarks.online", folder).splitlines()[-1])
    calls = [Calls(**each) for each in found["calls"]]
    text = [f"{machine()}, load {os.getloadavg()[0]:.0f} from other work. {count / 1e6:g}M rows.\n"]
    text.append(markdown(["in batch, whole process", "rows per second", "**CPU seconds per million rows**"], batch))
    text.append("")
    head = ["one at a time", "p50", "p99", "**CPU seconds per million rows**"]
    text.append(markdown(head, [each.row() for each in calls]))
    text.append(
        f"\nUntil the first call of `Scorer`: {found['ready_s']:.1f} s; memory of its process then: "
        f"{found['resident'] / 1e6:,.0f} MB. Memory of Redis per key: {memory:,.0f} bytes."
    )
    write_section("online", "\n".join(text), "batch-or-online.md")


def _batch(folder: Path, job: str, count: int, repeats: int) -> list[object]:
    """Runs a day as whole processes; the last one's results stay."""
    walls, spent = [], []
    for _ in range(repeats):
        workspaces.forget(folder)
        before, wall = os.times(), time.perf_counter()
        python("-m", "pipeline", "run", "--job", job, "--date", DAY, "--json", cwd=folder)
        walls.append(time.perf_counter() - wall)
        after = os.times()
        spent.append(after.children_user + after.children_system - before.children_user - before.children_system)
    name = "with validation, profile, drift and report" if job == workspaces.FULL else "without these"
    return [f"`lakescore run`, {name}", f"{count / median(walls):,.0f}", f"**{median(spent) / count * 1e6:.2f}**"]


def _memory(server: RedisServer) -> int:
    with server.client() as client:
        return int(client.info("memory")["used_memory_dataset"])


def timed(name: str, call: Callable[[int], object], rows: int = 1, calls: int = CALLS) -> Calls:
    """Measures calls with the numbers 0, 1, ..., of so many rows each.

    Other work on the machine reaches the slowest calls first, so the round with the lowest 99th percentile counts.
    """
    for number in range(min(WARM_UP, calls)):
        call(number)
    rounds = [_round(call, calls) for _ in range(ROUNDS)]
    p99, p50, cpu = min((walls[calls * 99 // 100], walls[calls // 2], cpu) for walls, cpu in rounds)
    return Calls(name, p50, p99, cpu / calls / rows)


def _round(call: Callable[[int], object], calls: int) -> tuple[list[float], float]:
    """Returns the wall seconds of each call, ascending, and the CPU seconds of all."""
    walls, cpu = [], time.process_time()
    for number in range(calls):
        began = time.perf_counter()
        call(number)
        walls.append(time.perf_counter() - began)
    return sorted(walls), time.process_time() - cpu


def one_at_a_time(folder: Path) -> dict[str, Any]:
    """Returns what calls of `Scorer` and of Redis take, in this process, with one thread of torch."""
    began = time.perf_counter()
    from pipeline import Scorer, Settings

    settings = Settings(lake=str(folder / "lake"), jobs=folder / "dags" / "jobs", models=str(folder / "models"))
    scorer = Scorer.of_job(SERVED, settings)
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch

    torch.set_num_threads(1)
    (file, *_) = sorted(workspaces.day(folder).glob("*.parquet"))
    rows = pa.Table.from_batches([next(pq.ParquetFile(file).iter_batches(max(CALLS, *AT_ONCE)))])
    records = rows.slice(0, CALLS).to_pylist()
    scorer.score(rows.slice(0, 1))
    ready, resident = time.perf_counter() - began, _resident()
    frames = [rows.slice(number, 1).to_pandas() for number in range(CALLS)]
    found = [
        timed("`Scorer`, a dict as an Arrow table", lambda n: scorer.score(pa.Table.from_pylist([records[n]]))),
        timed("`Scorer`, a pandas DataFrame", lambda n: scorer.score(frames[n])),
    ]
    for many, calls in AT_ONCE.items():
        found.append(timed(f"`Scorer`, {many:,} rows at once", _scoring(scorer, rows.slice(0, many)), many, calls))
    found += _lookups([record["id"] for record in records])
    return {"calls": [dataclasses.asdict(each) for each in found], "ready_s": ready, "resident": resident}


def _scoring(scorer: Scorer, rows: pa.Table) -> Callable[[int], object]:
    return lambda _: scorer.score(rows)


def _lookups(keys: list[str]) -> list[Calls]:
    import redis

    from pipeline.publish.redis_reader import read

    prefix = f"{SERVED}:serving"
    client: Any = redis.Redis.from_url(os.environ["LAKESCORE_REDIS_URL"])
    generation = client.hget(f"{prefix}:current", "generation").decode()
    for key in keys[:100]:
        if not read(client, prefix, [key])[1]:
            raise UsageError(f"Redis has nothing for {key}")
    return [
        timed("Redis, pointer and value", lambda n: read(client, prefix, [keys[n]])),
        timed("Redis, value alone", lambda n: client.get(f"{prefix}:{generation}:{{{keys[n]}}}")),
    ]


def _resident() -> int:
    """Returns the resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    print(json.dumps(one_at_a_time(Path(sys.argv[1]))))  # noqa: T201
