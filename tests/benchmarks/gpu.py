"""Checks a GPU and measures scoring there: the CUDA tests, then four shapes beside a bare loop. Under four minutes.

python -m tests.benchmarks.gpu [--share 1.0] [--device auto] [--out FOLDER]

It needs torch for CUDA and the packages of the tests, and no network. A smaller `--share` of the rows tries the script
itself on a CPU. The loop reads with several threads, keeps the device busy, and writes what the run writes; it plans,
hashes, proves and commits nothing. The table is printed, and written to `gpu.md` in the given folder.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from pipeline.machine import usable_cores
from tests.benchmarks.measuring import ROOT, in_environment, machine, markdown
from tests.benchmarks.parts import DAY
from tests.benchmarks.shapes import JOB, outputs_of

GROUP = 122_880
"""Rows of a row group; each is read and scored by one thread of the loop."""
SETTINGS: tuple[dict[str, Any], ...] = ({}, {"precision": "bfloat16"}, {"compile": True})
"""Of the engine: each shape is run with the first, the wide one with all."""


@dataclass(frozen=True)
class Shape:
    rows: int
    layers: tuple[int, ...]
    lists: bool = False
    """Whether the features are one column of lists."""
    top: int | None = None
    aim_s: float = 0.0
    """Wall seconds to be reached on an H100 with 16 cores: plan, score and commit."""

    def network(self) -> nn.Sequential:
        torch.manual_seed(0)
        pairs = zip(self.layers, self.layers[1:], strict=False)
        layers = [layer for given, returned in pairs for layer in (nn.Linear(given, returned), nn.ReLU())]
        return nn.Sequential(*layers[:-1]).eval()

    @property
    def names(self) -> list[str]:
        return ["embedding"] if self.lists else [f"f{number:03d}" for number in range(self.layers[0])]

    @property
    def signature(self) -> dict[str, Any]:
        found: dict[str, Any] = {"features": self.names}
        if self.lists:
            found["inputs"] = {"embedding": {"kind": "list", "length": self.layers[0]}}
        return found | ({"task": "ranking", "top": self.top} if self.top else {})

    def table(self, start: int, values: np.ndarray[Any, Any]) -> pa.Table:
        keys = {"id": np.arange(start, start + len(values))}
        if self.lists:
            flat = pa.array(np.ascontiguousarray(values).ravel())
            return pa.table(keys | {"embedding": pa.FixedSizeListArray.from_arrays(flat, values.shape[1])})
        return pa.table(keys | dict(zip(self.names, np.ascontiguousarray(values.T), strict=True)))

    def matrix(self, table: pa.Table) -> np.ndarray[Any, Any]:
        if self.lists:
            return table.column("embedding").combine_chunks().flatten().to_numpy().reshape(-1, self.layers[0])
        return np.column_stack([table.column(name).to_numpy() for name in self.names])


SHAPES = {
    "ranking": Shape(1_000_000, (64, 10_000), lists=True, top=10, aim_s=1.5),
    "deep": Shape(1_000_000, (64, *(1024,) * 8, 10), lists=True, aim_s=1.5),
    "wide": Shape(1_000_000, (200, 256, 256, 10), aim_s=1.2),
    "narrow": Shape(20_000_000, (6, 64, 64, 2), aim_s=1.6),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="of the rows of each shape")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".")))
    given = parser.parse_args()
    began = time.perf_counter()
    lines = []
    tested = _tests()
    with tempfile.TemporaryDirectory(prefix="lakescore-gpu-") as scratch:
        for name, shape in SHAPES.items():
            rows = max(2_000, int(shape.rows * given.share))
            folder = _lay_out(Path(scratch) / name, name, shape, rows)
            looped = _loop(shape, folder, given.device)
            for settings in SETTINGS if name == "wide" else SETTINGS[:1]:
                done = _run(folder, name, {"device": given.device, **settings})
                label = " ".join([name, *map(str, settings.values() if "precision" in settings else settings)])
                figures = (done["wall_s"], looped, done["wall_s"] / looped, shape.aim_s)
                lines.append([label, f"{rows / 1e6:g}M", *(f"{each:.2f}" for each in figures), done["engine"]])
            shutil.rmtree(folder)
    columns = ["", "rows", "plan, score and commit, s", "bare loop, s", "ratio", "aim on an H100, s", "run by"]
    took = time.perf_counter() - began
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    text = f"{where}; {machine()}, torch {torch.__version__}. One run each, imports apart; {took:.0f} s in all.\n"
    text += f"\nCUDA tests: {tested}\n\n{markdown(columns, lines)}\n"
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "gpu.md").write_text(text, "utf-8")
    print(text)  # noqa: T201


def _tests() -> str:
    """Runs the tests that need a CUDA device, and returns pytest's last line."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "slow or not slow"]
    files = ["tests/model/test_cuda.py", "tests/model/test_limits.py"]
    done = subprocess.run(
        [*command, *files], cwd=ROOT, env=in_environment(), capture_output=True, text=True, check=False
    )
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr[-500:]


def _lay_out(folder: Path, name: str, shape: Shape, rows: int) -> Path:
    """Makes a day of input and a registered model; every row group has the same features, as they cost the same."""
    day = folder / "lake" / "unscored" / f"ds={DAY}"
    day.mkdir(parents=True)
    values = np.random.default_rng(1).standard_normal((min(GROUP, rows), shape.layers[0]), np.float32)
    schema = shape.table(0, values[:1]).schema
    with pq.ParquetWriter(day / "part-0.parquet", schema, compression="zstd", use_dictionary=False) as writer:
        for start in range(0, rows, GROUP):
            writer.write_table(shape.table(start, values[: min(GROUP, rows - start)]))
    torch.save({"model_state_dict": shape.network().state_dict(), "architecture": "mlp:relu"}, folder / "model.pt")
    (folder / "signature.json").write_text(json.dumps(shape.signature))
    options = ["--name", name, "--version", "v1", "--signature", "signature.json", "--alias", "production"]
    command = [sys.executable, "-m", "pipeline", "models", "register", "model.pt", *options]
    subprocess.run(command, cwd=folder, env=in_environment(), check=True, capture_output=True)
    return folder


def _run(folder: Path, name: str, engine: dict[str, Any]) -> dict[str, Any]:
    """Scores the day in this process, which has imported everything; returns wall seconds, and how it was run."""
    from pipeline import Context, Settings, find_job, run_day

    for left in ("predictions", "runs", ".staging"):
        shutil.rmtree(folder / "lake" / left, ignore_errors=True)
    job = folder / "dags" / "jobs" / name
    job.mkdir(parents=True, exist_ok=True)
    (job / "job.toml").write_text(
        JOB.format(name=name)
        + "\n[engine]\n"
        + "".join(f"{key} = {json.dumps(value)}\n" for key, value in engine.items())
    )
    settings = Settings(lake=str(folder / "lake"), jobs=folder / "dags" / "jobs", models=str(folder / "models"))
    record = run_day(Context.open(find_job(name, settings), settings), DAY).record
    assert record is not None
    used = next(stage.engine for stage in record.stages if stage.engine)
    walls = [stage.wall_s for stage in record.stages if stage.stage in ("plan", "score", "commit")]
    return {"wall_s": sum(walls), "engine": f"{used.batch_rows:,} rows, {used.workers} workers, {used.device}"}


def _loop(shape: Shape, folder: Path, device: str) -> float:
    """Returns the seconds of a loop: threads read row groups and run the network, one writes what they return."""
    on = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    source = folder / "lake" / "unscored" / f"ds={DAY}" / "part-0.parquet"
    network, threads = shape.network().to(on), usable_cores()
    torch.set_num_threads(1)

    def scored(number: int) -> pa.Table:
        with pq.ParquetFile(source) as file, torch.inference_mode():
            table = file.read_row_group(number)
            parts = []
            for part in torch.split(torch.from_numpy(np.require(shape.matrix(table), requirements="W")), 8192):
                raw = network(part.to(on))
                parts.append(pa.table(outputs_of(raw, shape.top)))
            return pa.concat_tables(parts).add_column(0, "id", table.column("id"))

    def results(pool: ThreadPoolExecutor, groups: int) -> Iterator[pa.Table]:
        ahead: list[Future[pa.Table]] = []
        for number in range(groups):
            ahead.append(pool.submit(scored, number))
            if len(ahead) > threads:
                yield ahead.pop(0).result()
        yield from (each.result() for each in ahead)

    groups = pq.read_metadata(source).num_row_groups
    scored(0)  # the first pass starts the device
    began = time.perf_counter()
    writer = None
    with ThreadPoolExecutor(threads) as pool:
        for table in results(pool, groups):
            writer = writer or pq.ParquetWriter(folder / "loop.parquet", table.schema, compression="zstd")
            writer.write_table(table)
    assert writer is not None
    writer.close()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
