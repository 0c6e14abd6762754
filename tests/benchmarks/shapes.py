"""Wide rows and rankings: a run's scoring against a bare torch loop over the same file.

`python -m tests.benchmarks.shapes NAME FOLDER` is the loop alone: read, forward, write, with all cores for torch.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from tests.benchmarks import workspaces
from tests.benchmarks.measuring import in_process, machine, markdown, measure, median, python, report, write_section
from tests.benchmarks.parts import BATCH, DAY, SLICE

MB = 1_000_000
JOB = """
[model]
name = "{name}"

[input]
path = "unscored/ds={{ds}}/*.parquet"
key = ["id"]

[drift]
enabled = false

[report]
enabled = false

[quality]
enabled = false
"""


@dataclass(frozen=True)
class Shape:
    rows: int
    network: Callable[[], nn.Sequential]
    signature: dict[str, Any]
    batches: Callable[[int], Iterator[pa.Table]]
    matrix: Callable[[pa.RecordBatch], np.ndarray[Any, Any]]
    slice_rows: int


def _wide() -> nn.Sequential:
    return nn.Sequential(nn.Linear(200, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))


def _wide_batches(rows: int) -> Iterator[pa.Table]:
    rng = np.random.default_rng(1)
    for start in range(0, rows, BATCH):
        count = min(BATCH, rows - start)
        values = {f"f{index:03d}": rng.standard_normal(count, np.float32) for index in range(200)}
        yield pa.table({"id": np.arange(start, start + count), **values})


def _embeddings(rows: int) -> Iterator[pa.Table]:
    rng = np.random.default_rng(1)
    for start in range(0, rows, BATCH):
        count = min(BATCH, rows - start)
        values = pa.array(rng.standard_normal(count * 64, np.float32))
        yield pa.table(
            {"id": np.arange(start, start + count), "embedding": pa.FixedSizeListArray.from_arrays(values, 64)}
        )


SHAPES = {
    "wide": Shape(
        2_000_000,
        _wide,
        {"features": [f"f{index:03d}" for index in range(200)]},
        _wide_batches,
        lambda batch: np.column_stack([batch.column(f"f{index:03d}").to_numpy() for index in range(200)]),
        SLICE,
    ),
    "ranking": Shape(
        1_000_000,
        lambda: nn.Sequential(nn.Linear(64, 10_000)),
        {
            "features": ["embedding"],
            "inputs": {"embedding": {"kind": "list", "length": 64}},
            "task": "ranking",
            "top": 10,
        },
        _embeddings,
        lambda batch: batch.column("embedding").flatten().to_numpy().reshape(-1, 64),
        200,
    ),
}


def run(scratch: Path, rows: list[int], repeats: int) -> None:
    """Measures each shape at the size that it has; of `rows` it takes the smallest if that is less."""
    lines = []
    for name, shape in SHAPES.items():
        count = min(shape.rows, *rows)
        folder = lay_out(scratch, name, count)
        loops, runs = [], []
        for _ in range(repeats):
            loops.append(in_process("tests.benchmarks.shapes", name, folder))
            workspaces.forget(folder)
            runs.append(json.loads(python("-m", "tests.benchmarks.whole", folder, name).splitlines()[-1]))
        loop = median([each.wall_s for each in loops])
        scored, whole = (
            median([sum(each["stages"][stage] for stage in stages) for each in runs])
            for stages in (("score",), ("plan", "score", "commit"))
        )
        peak = median([each["peak_memory_bytes"] for each in runs])
        seconds = [f"{loop:.1f}", f"{scored:.1f}", f"**{scored / loop:.2f}**", f"{whole:.1f}"]
        lines.append([name, f"{count / 1e6:g}M", *seconds, f"{peak / MB:,.0f} MB"])
    columns = ["", "rows", "bare loop", "score", "ratio", "plan, score and commit", "peak memory of the run"]
    text = f"{machine()}. Wall seconds, medians of {repeats} runs, imports apart.\n\n{markdown(columns, lines)}"
    write_section("shapes", text)


def lay_out(scratch: Path, name: str, rows: int) -> Path:
    """Makes a day of input, a job and a registered model, in a folder that it returns."""
    folder, shape = scratch / f"{name}-{rows}", SHAPES[name]
    shutil.rmtree(folder, ignore_errors=True)
    day = folder / "lake" / "unscored" / f"ds={DAY}"
    day.mkdir(parents=True)
    batches = shape.batches(rows)
    first = next(batches)
    with pq.ParquetWriter(day / "part-0.parquet", first.schema, compression="zstd", use_dictionary=False) as writer:
        writer.write_table(first)
        for batch in batches:
            writer.write_table(batch)
    job = folder / "dags" / "jobs" / name
    job.mkdir(parents=True)
    (job / "job.toml").write_text(JOB.format(name=name))
    torch.manual_seed(0)
    torch.save({"model_state_dict": shape.network().state_dict(), "architecture": "mlp:relu"}, folder / "model.pt")
    (folder / "signature.json").write_text(json.dumps(shape.signature))
    options = ["--name", name, "--version", "v1", "--signature", "signature.json", "--alias", "production"]
    python("-m", "pipeline", "models", "register", "model.pt", *options, cwd=folder)
    return folder


def loop(name: str, folder: Path) -> Callable[[], object]:
    """What most would write: Parquet batches into torch on all cores, and the result into Parquet."""
    shape = SHAPES[name]
    network = shape.network().eval()
    network.load_state_dict(torch.load(folder / "model.pt", weights_only=True)["model_state_dict"])
    source = folder / "lake" / "unscored" / f"ds={DAY}" / "part-0.parquet"

    def work() -> None:
        writer = None
        with torch.inference_mode():
            for batch in pq.ParquetFile(source).iter_batches(BATCH):
                matrix = torch.from_numpy(np.require(shape.matrix(batch), requirements="W"))
                parts = [
                    outputs_of(network(part), 10 if name == "ranking" else None)
                    for part in torch.split(matrix, shape.slice_rows)
                ]
                columns = {key: pa.chunked_array([part[key] for part in parts]) for key in parts[0]}
                table = pa.table({"id": batch.column("id"), **columns})
                writer = writer or pq.ParquetWriter(folder / "loop.parquet", table.schema, compression="zstd")
                writer.write_table(table)
        if writer:
            writer.close()

    return work


def outputs_of(raw: torch.Tensor, top: int | None) -> dict[str, pa.Array]:
    """Returns the columns of a ranking, if `top` is given, else of a classification, from a network's output."""
    if top is not None:
        best = raw.topk(top, dim=1)
        items, scores = (pa.array(values.flatten().cpu().numpy()) for values in (best.indices, best.values))
        return {
            "top_items": pa.FixedSizeListArray.from_arrays(items, top),
            "top_scores": pa.FixedSizeListArray.from_arrays(scores, top),
        }
    probabilities = torch.softmax(raw, dim=1).cpu()
    confidence, index = probabilities.max(dim=1)
    columns = {f"prob_class_{label}": pa.array(probabilities[:, label].numpy()) for label in range(raw.shape[1])}
    return {"prediction": pa.array(index.numpy()), "prediction_proba": pa.array(confidence.numpy()), **columns}


if __name__ == "__main__":
    report(measure(loop(sys.argv[1], Path(sys.argv[2]))))
