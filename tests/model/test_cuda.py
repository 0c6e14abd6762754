"""Scoring on a CUDA device: same scores as on the CPU, although work overlaps; skipped without a device."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.errors import ModelError
from pipeline.model import cuda, golden
from pipeline.model.predictor import Predictor
from tests.model.tasks import FEATURES, TASKS, Task, furthest, matrix
from tests.model.test_predictor import OnlyFits
from tests.workspace import Workspace

on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
each_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([], 0),
        ([(1, 3)], 2),
        ([(1, 3), (5, 6)], 3),
        ([(5, 6), (1, 3)], 3),
        ([(1, 4), (2, 3), (3, 6)], 5),
        ([(1, 2), (1, 2), (2, 3)], 2),
    ],
)
def test_covered_counts_what_overlaps_once(spans: list[tuple[float, float]], expected: float) -> None:
    assert cuda.covered(spans) == expected


def on_both(task: Task) -> tuple[Predictor, Predictor]:
    return Predictor(task.network(), task.signature, "cuda"), Predictor(task.network(), task.signature, "cpu")


@on_cuda
@each_task
@pytest.mark.parametrize("batch_rows", [1, 7, 64, 8192, 20_000])
def test_scores_on_cuda_are_those_of_the_cpu_for_any_batch_size(task: Task, batch_rows: int) -> None:
    rows = matrix(300 if batch_rows < 64 else 20_000)
    device, cpu = on_both(task)
    tolerance = golden.TOLERANCES["cuda"]
    for _ in range(2):  # the second time reuses the pinned memory
        assert furthest(device.predict(rows, batch_rows), cpu.predict(rows, 8192)) <= tolerance


@on_cuda
@each_task
def test_threads_on_cuda_do_not_disturb_each_other(task: Task) -> None:
    device, cpu = on_both(task)
    rows = matrix(20_000)
    expected = cpu.predict(rows, 8192)
    parts = np.array_split(np.arange(len(rows)), 23)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda part: device.predict(rows[part[0] : part[-1] + 1], 333), parts))
    joined = {name: np.concatenate([each[name] for each in found]) for name in expected}
    assert furthest(joined, expected) <= golden.TOLERANCES["cuda"]


@on_cuda
@pytest.mark.parametrize("fits", [1, 10, 63])
def test_out_of_memory_on_cuda_halves_the_slice_and_loses_no_row(fits: int) -> None:
    task, rows = TASKS[2], matrix(3000)
    module = OnlyFits(task.network(), fits)
    found = Predictor(module, task.signature, "cuda").predict(rows, 512)
    expected = Predictor(task.network(), task.signature, "cpu").predict(rows, 512)
    assert furthest(found, expected) <= golden.TOLERANCES["cuda"]
    assert module.seen[-1] <= fits


class Big(nn.Module):
    """Temporarily needs a million values per row on the device."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.inner(x)
        return logits + 0 * x[:, :1].repeat(1, 1_000_000).sum(dim=1, keepdim=True)


@on_cuda
def test_memory_that_runs_out_for_real_halves_the_slice() -> None:
    task, rows = TASKS[2], matrix(65_536)  # 262 GB at once
    predictor = Predictor(Big(task.network()), task.signature, "cuda")
    found = predictor.predict(rows, len(rows))
    assert predictor.most_rows < len(rows)
    assert furthest(found, Predictor(task.network(), task.signature, "cpu").predict(rows, 8192)) <= 1e-3


@on_cuda
def test_memory_not_enough_for_one_row_says_what_to_do_and_the_next_call_works() -> None:
    task = TASKS[2]
    module = OnlyFits(task.network(), 0)
    predictor = Predictor(module, task.signature, "cuda")
    with pytest.raises(ModelError, match="LAKESCORE_DEVICE=cpu"):
        predictor.predict(matrix(10), 4)
    module.rows = 10
    assert len(predictor.predict(matrix(10), 4)["prediction"]) == 10


@on_cuda
def test_busy_seconds_are_those_of_the_forward_passes() -> None:
    wide = nn.Sequential(nn.Linear(FEATURES, 4096), *(nn.Linear(4096, 4096) for _ in range(8)), nn.Linear(4096, 7))
    predictor = Predictor(wide, TASKS[2].signature, "cuda")
    assert predictor.busy is not None
    predictor.predict(matrix(1000), 1000)
    predictor.busy.clear()
    began, ended = cuda._event(timing=True), cuda._event(timing=True)
    began.record()
    predictor.predict(matrix(20_000), 2000)
    ended.record()
    ended.synchronize()
    assert 0 < predictor.busy.seconds() <= began.elapsed_time(ended) / 1000


@on_cuda
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_run_on_cuda_stores_what_the_cpu_does_and_says_how_busy_it_was(workspace: Workspace, precision: str) -> None:
    job = workspace.job() / "job.toml"
    job.write_text(job.read_text() + f'\n[engine]\nprecision = "{precision}"\n')
    workspace.day(20_000)
    record = workspace.run(device="cuda").record
    assert record is not None
    (stage,) = [stage for stage in record.stages if stage.stage == "score"]
    assert stage.engine is not None
    assert (stage.engine.device.partition(",")[0], stage.engine.precision) == ("cuda", precision)
    assert 0 < stage.busy["gpu"] <= 1
    assert sum(share for part, share in stage.busy.items() if part != "gpu") == pytest.approx(1)
    query = "SELECT id, prob_class_1 FROM predictions WHERE run_id = "
    on_device = {row["id"]: row["prob_class_1"] for row in workspace.stored(f"{query}'{record.run_id}'")}
    workspace.model("v2")  # the same weights, so all rows are scored again
    other = workspace.run(device="cpu").record
    assert other is not None
    on_cpu = {row["id"]: row["prob_class_1"] for row in workspace.stored(f"{query}'{other.run_id}'")}
    assert on_device == pytest.approx(on_cpu, abs=1e-3 if precision == "float32" else 2e-2)
