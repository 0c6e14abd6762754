"""Models of each kind: a run's CPU time against that of the library's own predict over the same file.

`python -m tests.benchmarks.models KIND FOLDER own` is that loop alone: read, predict, write, with one thread;
`... run` is a run of the day.
"""

from __future__ import annotations

import shutil
import sys
import warnings
from collections.abc import Callable
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
from tests.benchmarks.shapes import JOB

FEATURES = [f"f{index:02d}" for index in range(20)]
MOST_ROWS = 1_000_000
KINDS = {
    "torch": "network 20-64-64-2, a checkpoint",
    "onnx": "forest of scikit-learn, 50 trees of depth 8",
    "xgboost": "100 trees of depth 6",
    "lightgbm": "100 trees of 63 leaves",
}
Predict = Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]


def run(scratch: Path, rows: list[int], repeats: int) -> None:
    """Measures each kind at MOST_ROWS, or at the smallest of `rows` if that is less."""
    lines, count = [], min(MOST_ROWS, *rows)
    for kind, what in KINDS.items():
        folder = lay_out(scratch, kind, count)
        own, runs = [], []
        for _ in range(repeats):
            own.append(in_process("tests.benchmarks.models", kind, folder, "own").cpu_s)
            workspaces.forget(folder)
            runs.append(in_process("tests.benchmarks.models", kind, folder, "run").cpu_s)
        alone, whole = median(own), median(runs)
        rates = [f"{count / seconds:,.0f}" for seconds in (alone, whole)]
        lines.append([kind, what, f"{count / 1e6:g}M", *rates, f"**{whole / alone:.2f}**"])
    columns = ["", "model", "rows", "own predict, rows per CPU second", "a run, rows per CPU second", "ratio"]
    text = f"{machine()}. CPU time, medians of {repeats} runs, imports apart.\n\n{markdown(columns, lines)}"
    write_section("models", text)


def lay_out(scratch: Path, kind: str, rows: int) -> Path:
    """Makes a day of input, a job and a registered model, in a folder that it returns."""
    folder = scratch / f"models-{kind}-{rows}"
    shutil.rmtree(folder, ignore_errors=True)
    day = folder / "lake" / "unscored" / f"ds={DAY}"
    day.mkdir(parents=True)
    rng = np.random.default_rng(1)
    columns = {name: rng.standard_normal(rows, np.float32) for name in FEATURES}
    pq.write_table(pa.table({"id": np.arange(rows), **columns}), day / "part-0.parquet", use_dictionary=False)
    job = folder / "dags" / "jobs" / kind
    job.mkdir(parents=True)
    (job / "job.toml").write_text(JOB.format(name=kind))
    train(kind, folder / "model.file")
    names = ["--features", ",".join(FEATURES), "--name", kind, "--version", "v1", "--alias", "production"]
    assumed = ["--architecture", "mlp:relu"] if kind == "torch" else []
    python("-m", "pipeline", "models", "register", "model.file", *names, *assumed, cwd=folder)
    return folder


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)).eval()


def train(kind: str, path: Path) -> None:
    rng = np.random.default_rng(2)
    matrix = rng.standard_normal((20_000, len(FEATURES)), np.float32)
    labels = (matrix[:, 0] + matrix[:, 1] * matrix[:, 2] + rng.standard_normal(20_000) > 0).astype(int)
    match kind:
        case "torch":
            torch.save(network().state_dict(), path)
        case "onnx":
            from skl2onnx import to_onnx
            from sklearn.ensemble import RandomForestClassifier

            forest = RandomForestClassifier(50, max_depth=8, random_state=0).fit(matrix, labels)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # skl2onnx warns about its own code
                path.write_bytes(to_onnx(forest, matrix[:1], options={"zipmap": False}).SerializeToString())
        case "xgboost":
            import xgboost

            booster = xgboost.train({"objective": "binary:logistic"}, xgboost.DMatrix(matrix, labels), 100)
            path.write_bytes(booster.save_raw("ubj"))
        case "lightgbm":
            import lightgbm

            how = {"objective": "binary", "num_leaves": 63, "verbose": -1}
            path.write_text(lightgbm.train(how, lightgbm.Dataset(matrix, labels), 100).model_to_string())


def predictor(kind: str, path: Path) -> Predict:
    """Returns the library's own predict, with one thread: probabilities of the second class, (rows,)."""
    match kind:
        case "onnx":
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
            return lambda matrix: session.run(["probabilities"], {"X": matrix})[0][:, 1]
        case "xgboost":
            import xgboost

            booster = xgboost.Booster({"nthread": 1}, model_file=bytearray(path.read_bytes()))
            return lambda matrix: booster.predict(xgboost.DMatrix(matrix, nthread=1))
        case "lightgbm":
            import lightgbm

            trees = lightgbm.Booster(model_str=path.read_text())
            return lambda matrix: np.asarray(trees.predict(matrix, num_threads=1))
        case _:
            torch.set_num_threads(1)
            layers = network()

            def predict(matrix: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
                with torch.inference_mode():
                    parts = torch.split(torch.from_numpy(matrix), SLICE)
                    return torch.cat([torch.softmax(layers(part), 1)[:, 1] for part in parts]).numpy()

            return predict


def own(kind: str, folder: Path) -> Callable[[], object]:
    """Returns what most would write: batches of the file into the library, and the probabilities into a file."""
    predict = predictor(kind, folder / "model.file")
    source = folder / "lake" / "unscored" / f"ds={DAY}" / "part-0.parquet"

    def work() -> None:
        schema = pa.schema({"id": pa.int64(), "prob_class_1": pa.float32()})
        with pq.ParquetWriter(folder / "own.parquet", schema, compression="zstd") as writer:
            for batch in pq.ParquetFile(source).iter_batches(BATCH, use_threads=False):
                matrix = np.column_stack([batch.column(name).to_numpy() for name in FEATURES])
                scores = pa.array(predict(matrix).astype(np.float32))
                writer.write_table(pa.table([batch.column("id"), scores], schema=schema))

    return work


def a_run(kind: str, folder: Path) -> Callable[[], object]:
    from pipeline.context import Context
    from pipeline.flow.day import run_day
    from pipeline.job.loading import find_job
    from pipeline.settings import Settings

    predictor(kind, folder / "model.file")  # imports apart
    settings = Settings(lake=str(folder / "lake"), jobs=folder / "dags" / "jobs", models=str(folder / "models"))
    ctx = Context.open(find_job(kind, settings), settings)
    return lambda: run_day(ctx, DAY)


if __name__ == "__main__":
    report(measure({"own": own, "run": a_run}[sys.argv[3]](sys.argv[1], Path(sys.argv[2]))))
