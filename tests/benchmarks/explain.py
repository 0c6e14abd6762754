"""How long `lakescore explain` takes to find one key in 60 days of predictions, with Bloom filters and without."""

from __future__ import annotations

import os
import resource
import shutil
import time
from collections.abc import Sequence
from datetime import date, timedelta
from itertools import repeat
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.ingest.writing import DayWriter
from pipeline.lake.layout import Lake, Partition
from pipeline.model.matrix import fingerprints
from pipeline.staging.writer import GROUP_ROWS, Writer
from pipeline.storage.parquet import ROW_GROUP
from tests import lakes
from tests.benchmarks.measuring import machine, markdown, median, whole_process, write_section
from tests.workspace import Workspace

DAYS = 60
ROWS = (10_000_000, 100_000_000)
"""Of all days together."""


def run(scratch: Path, _rows: list[int], repeats: int) -> None:
    measure_all(scratch, repeats, ROWS)


def measure_all(scratch: Path, repeats: int, sizes: tuple[int, ...]) -> None:
    """Writes the table of docs/performance.md."""
    table = []
    for rows in sizes:
        for filters in VARIANTS:
            folder = scratch / f"explain-{rows}-{len(filters)}"
            workspace = make(folder, rows // DAYS, filters)
            times = [measure(workspace, repeats, *each) for each in CASES]
            size = sum(path.stat().st_size for path in (workspace.lake / "predictions").rglob("part-*")) / rows
            of = " and ".join(filters) or "none"
            table.append((f"{rows:,}", of, f"{size:.1f}", *(f"{wall:.1f} / {cpu:.1f}" for wall, cpu in times)))
            print(*table[-1], flush=True)  # noqa: T201 - the next row takes minutes
            shutil.rmtree(folder)
    columns = ("predictions", "Bloom filters in", "bytes per row", "one day", "all days", "with --replay")
    load = f"load {os.getloadavg()[0]:.0f} from other work"
    write_section("explain", f"{machine()}, {load}. Seconds of wall / of CPU.\n\n{markdown(columns, table)}")


VARIANTS: tuple[tuple[str, ...], ...] = (("predictions", "input"), ("predictions",), ())
CASES = (("--date", "2026-02-15"), (), ("--replay",))


def measure(workspace: Workspace, repeats: int, *arguments: str) -> tuple[float, float]:
    """Returns the median wall and CPU seconds of the whole command, its start included; each time for another key."""
    os.environ["LAKESCORE_LAKE"] = str(workspace.lake)
    os.environ["LAKESCORE_JOBS"] = str(workspace.settings.jobs)
    os.environ["LAKESCORE_MODELS"] = workspace.settings.models
    keys = [f"user_{number:09d}" for number in (17, 4711, 90_001, 123, 64_000)[:repeats]]
    walls, cpus = [], []
    for key in keys:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        walls.append(whole_process("-m", "pipeline", "explain", key, "--job", "toy", *arguments))
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpus.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return median(walls), median(cpus)


def make(folder: Path, rows: int, filters: Sequence[str]) -> Workspace:
    """Writes a lake whose keys come back every day, in another order each time."""
    folder.mkdir(parents=True)
    workspace = Workspace(folder)
    workspace.job()
    workspace.model()
    lake = lakes.open_lake(workspace.lake)
    keys = pa.array([f"user_{number:09d}" for number in range(rows)])
    for back in range(DAYS):
        ds = (date(2026, 1, 1) + timedelta(days=back)).isoformat()
        _write_day(lake, workspace, keys, ds, back, filters)
    return workspace


def _write_day(lake: Lake, workspace: Workspace, keys: pa.Array, ds: str, seed: int, filters: Sequence[str]) -> None:
    rng = np.random.default_rng(seed)
    ids = keys.take(pa.array(rng.permutation(len(keys))))
    matrix = rng.normal(size=(len(keys), 2)).astype(np.float32)
    target = lake.workspace.path(f"unscored/ds={ds}/data.parquet")
    target.parent.mkdir(parents=True)
    source = pa.table({"id": ids, "a": matrix[:, 0], "b": matrix[:, 1]})
    with DayWriter(
        lambda _: target, source.schema, repeat(len(keys)), [], ("id",) if "input" in filters else ()
    ) as day:
        for batch in source.to_batches(ROW_GROUP):
            day.write(batch)
    run_id = lakes.run_id(ds)
    score = rng.random(len(keys), np.float32)
    rows = pa.table(
        {
            "id": ids,
            "prediction": (score > 0.5).astype(np.int64),
            "prediction_proba": np.maximum(score, 1 - score),
            "prob_class_0": 1 - score,
            "prob_class_1": score,
            "scored_at": pa.repeat(pa.scalar(lakes.clock(ds), pa.timestamp("us", "UTC")), len(keys)),
            "run_id": pa.repeat(pa.scalar(run_id), len(keys)),
            "reason": pa.repeat(pa.scalar("new"), len(keys)),
            "fingerprint": fingerprints(matrix),
            "revision": np.zeros(len(keys), np.int32),
        }
    )
    partition = Partition("toy", ds, "v1")
    few = ("prediction", "scored_at", "run_id", "reason", "revision")
    scratch = workspace.root / "staged"
    writer = Writer(scratch, "scored", 0, rows.schema, {}, few, ("id",) if "predictions" in filters else ())
    for batch in rows.to_batches(GROUP_ROWS):
        writer.write(batch)
    writer.close()
    for number, path in enumerate(sorted(scratch.glob("*.parquet"))):
        target = lake.workspace.path(partition.part(number))
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    record = lakes.add_run(lake, partition, scored=len(keys), committed=lake.parts(partition), model="toy")
    model = workspace.context().registry.resolve("toy", "v1").ref
    lakes.put_record(lake, record.with_(model=model, plan=record.plan.model_copy(update={"features": ("a", "b")})))


if __name__ == "__main__":
    import sys
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        started = time.perf_counter()
        measure_all(Path(temporary), 3, tuple(int(size) for size in sys.argv[1:]) or ROWS)
        print(f"{time.perf_counter() - started:.0f} s in all")  # noqa: T201
