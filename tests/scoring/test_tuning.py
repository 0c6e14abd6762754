"""Batch size and number of workers: measured once per model and machine, remembered, or set."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from torch import nn

from pipeline import machine
from pipeline.database import resources
from pipeline.model.manifest import Signature
from pipeline.model.predictor import SLICE_ROWS, Predictor
from pipeline.model.registry import Registry
from pipeline.records import EngineUsed, RunRecord, StageReport
from pipeline.scoring import tuning
from pipeline.scoring.workers import AHEAD
from tests.model.programs import export
from tests.workspace import DAY, Workspace

SIGNATURE = Signature(features=("a", "b"), classes=(0, 1))
HERE = tuning.Machine(
    processor="a", cores=2, physical_cores=2, device="cpu", torch="2", precision="float32", compiled=False
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sets torch's threads as a run does: threads that wait for each other in a loop would be measured too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Clock:
    """A clock that only `Costs` advances, so that load on the machine changes nothing."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    thread_time = perf_counter


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(tuning, "time", made)
    return made


class Costs(nn.Module):
    """A model that takes `call_s` per call, and `row_s` for each row beyond a number of rows."""

    def __init__(self, clock: Clock, call_s: float, row_s: float, beyond: int) -> None:
        super().__init__()
        self.clock, self.call_s, self.row_s, self.beyond = clock, call_s, row_s, beyond
        self.seen: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(x))
        self.clock.now += self.call_s + self.row_s * max(0, len(x) - self.beyond)
        return x


def predictor(module: nn.Module) -> Predictor:
    return Predictor(module, SIGNATURE, "cpu")


def measured(module: nn.Module, *, rows: int = 5_000_000, most_rows: int = 61_440) -> tuning.Tuning:
    return tuning.measure(predictor(module), "model", HERE, rows, most_rows)


def test_measure_calls_that_cost_take_more_rows_at_a_time_until_that_saves_little(clock: Clock) -> None:
    found = measured(Costs(clock, 0.001, 5e-8, 0))  # 32,768 rows take 2.6 ms, 16,384 rows 1.8 ms: 37% more per row
    assert found.batch_rows == 32_768
    assert sorted(found.rows_per_s) == list(tuning.CANDIDATES)


def test_measure_rows_that_cost_beyond_a_size_keep_to_it(clock: Clock) -> None:
    module = Costs(clock, 0.0002, 1e-6, 4096)
    found = measured(module)
    assert found.batch_rows == 4096
    assert max(module.seen) <= 16_384, "no size is tried after two that are much slower"


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ({1024: 3.0e6}, 1024),
        ({1024: 3.0e6, 2048: 3.05e6, 4096: 2.0e6}, 2048),
        ({1024: 3.05e6, 2048: 3.0e6, 4096: 2.0e6}, 2048),
        ({1024: 3.0e6, 2048: 3.2e6, 4096: 3.25e6, 8192: 3.1e6}, 4096),
        ({4096: 3.0e6, 8192: 3.0e6, 16384: 3.05e6}, 8192),
        ({4096: 2.0e6, 8192: 2.0e6, 16384: 3.0e6, 32768: 3.05e6}, 16384),
        ({1024: 1.0e6, 2048: 2.0e6, 4096: 4.0e6}, 4096),
    ],
)
def test_fastest_makes_few_calls_then_takes_little_memory(rates: dict[int, float], expected: int) -> None:
    assert tuning.fastest(rates) == expected


@pytest.mark.parametrize("call_s", [0.0001, 0.001, 0.002])
def test_measure_takes_little_time(clock: Clock, call_s: float) -> None:
    measured(Costs(clock, call_s, 0, 0))
    assert clock.now < 1.1 * tuning.BUDGET_S


def test_measure_of_a_slow_model_may_take_a_hundredth_of_the_day(clock: Clock) -> None:
    module = Costs(clock, 0, 1e-4, 0)  # 0.1 s for 1,024 rows
    assert sorted(measured(module, rows=2_000).rows_per_s) == [1024]
    module.seen.clear()
    assert sorted(measured(module, rows=2_000_000).rows_per_s)[:2] == [1024, 2048]  # 1 s of 100 s with two workers


def test_measure_is_bounded_by_what_is_read_at_once_and_by_the_widest_layer() -> None:
    assert max(measured(nn.Linear(2, 2), most_rows=8192).rows_per_s) <= 8192
    wide = nn.Sequential(nn.Linear(2, 4000), nn.Linear(4000, 2))
    assert max(measured(wide).rows_per_s) <= 4096
    vocabulary = nn.Sequential(nn.Linear(2, 2))
    vocabulary.register_module("unused", nn.Embedding(1_000_000, 8))
    assert tuning._widest(predictor(vocabulary)) == 2


@pytest.mark.parametrize(("more", "chosen"), [(0.5, 1), (1.0, 1), (1.03, 1), (1.04, 2), (2.0, 2)])
def test_fewer_or_all_takes_the_fewer_unless_the_more_are_faster(
    monkeypatch: pytest.MonkeyPatch, more: float, chosen: int
) -> None:
    rates = {1: 1e6, 2: more * 1e6}
    monkeypatch.setattr(tuning, "_together", lambda _predictor, _matrix, _size, threads: rates[threads])
    model = predictor(nn.Linear(2, 2))
    assert tuning.fewer_or_all(model, tuning._rows(model, 2048), 1024, (1, 2), until=0.0) == chosen


class Meeting(nn.Module):
    """A model that returns once as many threads are in it as expected."""

    def __init__(self, threads: int) -> None:
        super().__init__()
        self.barrier = threading.Barrier(threads, timeout=60)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.barrier.wait()
        return x


def test_together_has_all_threads_in_the_model_at_the_same_time() -> None:
    rows = tuning._rows(predictor(nn.Linear(2, 2)), 2048)
    assert tuning._together(predictor(Meeting(3)), rows, 1024, 3) > 0


# In a run


def used(record: RunRecord | None) -> EngineUsed:
    assert record is not None
    (found,) = [stage.engine for stage in record.stages if stage.engine is not None]
    return found


def remembered(workspace: Workspace) -> list[Path]:
    return sorted((workspace.lake / ".tuning").glob("*.json"))


def run(workspace: Workspace, day: int, rows: int = 100) -> EngineUsed:
    ds = f"2026-01-{day:02d}"
    workspace.day(rows, ds)
    return used(workspace.run(ds, threads=None).record)


@pytest.mark.slow
def test_run_of_few_rows_measures_nothing(workspace: Workspace) -> None:
    found = run(workspace, 1)
    assert (found.chosen, found.batch_rows, found.workers) == ("default", SLICE_ROWS, machine.usable_cores())
    assert (found.device, found.precision, found.compiled) == ("cpu", "float32", False)
    assert not remembered(workspace)


@pytest.fixture
def worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "WORTH_IT_ROWS", 100)


@pytest.mark.slow
@pytest.mark.usefixtures("worth_it")
def test_run_of_many_rows_measures_once_and_remembers(workspace: Workspace) -> None:
    first = run(workspace, 1)
    (file,) = remembered(workspace)
    assert first.chosen == "measured"
    assert first.batch_rows in tuning.CANDIDATES
    second = run(workspace, 2, rows=10)
    assert second == first.model_copy(update={"chosen": "remembered"})
    assert remembered(workspace) == [file]
    kept = json.loads(file.read_text())
    file.write_text(json.dumps({**kept, "batch_rows": 77}))
    assert run(workspace, 3).batch_rows == 77
    workspace.model("v2", seed=1)
    assert run(workspace, 3).chosen == "measured"
    assert len(remembered(workspace)) == 2


class Indexed(nn.Module):
    """Takes 0 to 3 as its first feature; synthetic rows have other numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.colour, self.last = nn.Embedding(4, 1), nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.last(torch.cat([self.colour(x[:, 0].long()), x[:, 1:]], dim=1))
        return scores


@pytest.mark.slow
@pytest.mark.usefixtures("worth_it")
def test_run_measures_with_rows_that_the_model_takes(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.job()
    path = export(tmp_path / "m.pt2", Indexed().eval(), 2)
    examples = pa.table({"a": [0.0, 1.0, 2.0, 3.0], "b": [0.5, -1.0, 2.0, 8.0]})
    registry = Registry(Path(workspace.settings.models))
    registry.register(path, name="toy", version="v1", features=("a", "b"), alias="production", examples=examples)
    workspace.day({"id": [f"u{i}" for i in range(200)], "a": [i % 4 for i in range(200)], "b": [0.1] * 200})
    assert used(workspace.run(DAY, threads=None).record).chosen == "measured"


@pytest.mark.usefixtures("worth_it")
def test_run_that_cannot_remember_goes_on(workspace: Workspace, caplog: pytest.LogCaptureFixture) -> None:
    workspace.lake.mkdir()
    (workspace.lake / ".tuning").write_text("in the way")
    assert run(workspace, 1).chosen == "measured"
    assert "cannot be remembered" in caplog.text


DAMAGES: dict[str, dict[str, Any] | bytes] = {
    "not JSON": b"\0\1 no JSON",
    "empty": b"",
    "no rows": {"batch_rows": 0},
    "too many workers": {"workers": 1_000_000},
    "a later format": {"format": 2},
    "another model": {"model": "0" * 64},
    "another machine": {"machine": {**HERE.model_dump(), "processor": "another"}},
}


@pytest.mark.slow
@pytest.mark.usefixtures("worth_it")
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_run_damaged_or_foreign_measurement_is_made_again(workspace: Workspace, damage: dict[str, Any] | bytes) -> None:
    run(workspace, 1)
    (file,) = remembered(workspace)
    kept = json.loads(file.read_text())
    file.write_bytes(damage if isinstance(damage, bytes) else json.dumps({**kept, **damage}).encode())
    assert run(workspace, 2).chosen == "measured"
    assert json.loads(file.read_text())["model"] == kept["model"]
    assert run(workspace, 3).chosen == "remembered"


@pytest.mark.usefixtures("worth_it")
def test_run_what_the_job_sets_is_not_measured(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "measure", lambda *_: pytest.fail("measured"))
    job = workspace.job() / "job.toml"
    job.write_text(job.read_text() + "\n[engine]\nbatch_rows = 33\nthreads = 2\n")
    assert (found := run(workspace, 1)).chosen == "set"
    assert (found.batch_rows, found.workers) == (33, 2)


@pytest.mark.slow
@pytest.mark.usefixtures("worth_it")
def test_run_fewer_workers_let_the_others_end_after_what_they_have_read(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, batches = 8192, 40
    monkeypatch.setattr(resources, "BATCH_ROWS", batch)
    monkeypatch.setattr(machine, "usable_cores", lambda: 2)
    monkeypatch.setattr(machine, "physical_cores", lambda: 1)
    monkeypatch.setattr(tuning, "fewer_or_all", lambda *_: 1)
    calls: Counter[str] = Counter()
    real = Predictor.predict_arrow

    def counting(self: Predictor, matrix: Any, batch_rows: int) -> Any:
        if (name := threading.current_thread().name).startswith("score"):
            calls[name] += 1
        return real(self, matrix, batch_rows)

    monkeypatch.setattr(Predictor, "predict_arrow", counting)
    assert run(workspace, 1, rows=batches * batch).workers == 1
    assert sum(calls.values()) == batches
    assert min(calls.values()) <= AHEAD + 1 < batches / 2
    assert len(workspace.stored("SELECT DISTINCT id FROM predictions")) == batches * batch


def test_record_from_before_has_no_engine() -> None:
    report = StageReport.model_validate_json('{"stage": "score", "wall_s": 1.0, "cpu_s": 1.0, "rows": 5, "busy": {}}')
    assert report.engine is None
