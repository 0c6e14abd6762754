"""bfloat16 and torch.compile: faster forms of the same model, within a stated tolerance."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from pipeline.errors import ModelError, QualityStop
from pipeline.job_tables import Precision
from pipeline.model import golden, program
from pipeline.model.card import Card
from pipeline.model.manifest import Signature
from pipeline.model.predictor import Predictor
from pipeline.model.registry import Registry
from pipeline.records import RunRecord
from tests.model.programs import export
from tests.model.tasks import TASKS, Task, furthest, matrix
from tests.model.test_program import NETWORKS
from tests.workspace import DAY, Workspace

ROOT = Path(__file__).parent.parent.parent
BFLOAT16 = 2e-2
"""How far off rows of the size of the training data may be, as docs/models.md states it."""
SIGNATURE = Signature(features=("a", "b", "c"), classes=(0, 1))
HAS_COMPILER = any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++"))

compiling = [
    pytest.mark.slow,
    pytest.mark.skipif(not HAS_COMPILER, reason="torch.compile needs a C++ compiler"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*", "ignore::FutureWarning:torch.*"),
]


def in_bfloat16(task: Task) -> Predictor:
    return Predictor(task.network(), task.signature, "cpu", precision="bfloat16")


# bfloat16


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_bfloat16_scores_are_float32_and_near_those_in_float32(task: Task) -> None:
    rows = matrix(5000)
    found = in_bfloat16(task).predict(rows, 512)
    expected = Predictor(task.network(), task.signature, "cpu").predict(rows, 512)
    assert {name: values.dtype for name, values in found.items()} == {n: v.dtype for n, v in expected.items()}
    assert 1e-5 < furthest(found, expected) <= BFLOAT16, "not at all in bfloat16, or too far off"


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_bfloat16_scores_do_not_depend_on_the_batch_size(task: Task) -> None:
    predictor, rows = in_bfloat16(task), matrix(1000)
    whole = predictor.predict(rows, 1000)
    for batch_rows in (1, 7, 64):
        assert furthest(predictor.predict(rows, batch_rows), whole) <= BFLOAT16


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_bfloat16_reproduces_the_golden_batch_within_its_tolerance(task: Task) -> None:
    content = golden.make(task.network(), task.signature, None, "model.pt")
    found = golden.compare(in_bfloat16(task), content)
    assert (found.tolerance, found.precision, found.reproduced) == (golden.BFLOAT16_TOLERANCE, "bfloat16", True)
    assert found.largest > golden.TOLERANCES["cpu"]


def test_bfloat16_another_model_is_seen_as_closely_as_in_float32() -> None:
    task = TASKS[2]
    content = golden.make(task.network(), task.signature, None, "model.pt")
    other = task.network()
    with torch.no_grad():
        other[0].get_parameter("bias").add_(0.02)
    found = golden.compare(Predictor(other, task.signature, "cpu", precision="bfloat16"), content)
    assert (found.precision, found.reproduced) == ("float32", False)
    assert found.largest < golden.BFLOAT16_TOLERANCE


@pytest.mark.parametrize("name", NETWORKS)
def test_bfloat16_programs_are_near_their_outputs_in_float32(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    export(tmp_path / "m.pt2", NETWORKS[name]().eval())
    built = program.build((tmp_path / "m.pt2").read_bytes(), "m.pt2")
    signature = SIGNATURE.model_copy(update={"classes": tuple(range(built.outputs))})
    rows = np.random.default_rng(1).normal(size=(200, 3)).astype(np.float32)
    found = Predictor(built, signature, "cpu", precision="bfloat16").predict(rows, 64)
    expected = Predictor(built, signature, "cpu").predict(rows, 64)
    assert 1e-5 < furthest(found, expected) <= BFLOAT16


class OfOneType(nn.Module):
    """Adds to a sum that is float32, whatever the layer gives: torch refuses two types there."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(x), 2).index_add_(0, torch.arange(len(x)), self.layer(x))


def test_bfloat16_model_that_cannot_is_refused_with_a_way_out() -> None:
    Predictor(OfOneType(), SIGNATURE, "cpu")
    with pytest.raises(ModelError, match="cannot be run in bfloat16") as caught:
        Predictor(OfOneType(), SIGNATURE, "cpu", precision="bfloat16")
    assert caught.value.next_step == 'set precision = "float32" in job.toml'
    assert "index_add" in str(caught.value.got)


def with_engine(workspace: Workspace, engine: str) -> Workspace:
    job = workspace.job() / "job.toml"
    job.write_text(job.read_text() + f"\n[engine]\n{engine}\n")
    workspace.day(500)
    return workspace


def stored(workspace: Workspace) -> dict[str, float]:
    return {row["id"]: row["prob_class_1"] for row in workspace.stored("SELECT id, prob_class_1 FROM predictions")}


def engine_of(record: RunRecord) -> tuple[str, bool]:
    (used,) = [stage.engine for stage in record.stages if stage.engine is not None]
    return used.precision, used.compiled


def test_run_in_bfloat16_stores_float32_and_says_so(workspace: Workspace, tmp_path: Path) -> None:
    record = with_engine(workspace, 'precision = "bfloat16"').complete()
    assert engine_of(record) == ("bfloat16", False)
    (check,) = [check for check in record.checks if check.name == "golden_batch"]
    assert check.success
    assert "0.1 allowed on cpu in bfloat16" in str(check.observed)
    (file,) = workspace.lake.glob("predictions/*/*/*/part-*.parquet")
    assert pq.read_schema(file).field("prob_class_1").type == pa.float32()
    plain = Workspace(tmp_path / "plain")
    plain.job()
    plain.model()
    plain.day(500)
    assert engine_of(plain.complete()) == ("float32", False)
    found, expected = stored(workspace), stored(plain)
    differences = [abs(found[key] - expected[key]) for key in expected]
    assert 1e-6 < max(differences) <= BFLOAT16


def test_run_too_far_off_in_bfloat16_is_stopped(workspace: Workspace) -> None:
    network = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2))
    with torch.no_grad():
        network[2].get_parameter("weight").mul_(300)
    torch.save(network.state_dict(), workspace.root / "steep.pt")
    registry = Registry(Path(workspace.settings.models))
    registry.register(
        workspace.root / "steep.pt", name="toy", version="v2", features=("a", "b"), alias="production", card=Card()
    )
    with pytest.raises(QualityStop, match=r"too far off in bfloat16(?s:.)*float32") as caught:
        with_engine(workspace, 'precision = "bfloat16"').run()
    assert "nothing was scored" in str(caught.value)
    assert not stored_files(workspace)


def stored_files(workspace: Workspace) -> list[Path]:
    return [*workspace.lake.rglob("part-*"), *workspace.lake.rglob("scored-*")]


# torch.compile


@pytest.fixture
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another test, or this person, had compiled before is not found."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))


class TestCompiled:
    pytestmark = [*compiling, pytest.mark.usefixtures("fresh_cache")]

    @pytest.mark.parametrize("precision", ["float32", "bfloat16"])
    def test_compiled_scores_are_near_for_any_number_of_rows_compiling_once(self, precision: Precision) -> None:
        from torch._dynamo.utils import counters

        counters.clear()
        task, rows = TASKS[2], matrix(3000)
        found = Predictor(task.network(), task.signature, "cpu", precision=precision, compiled=True)
        expected = Predictor(task.network(), task.signature, "cpu", precision=precision)
        for batch_rows in (3000, 1, 7, 64, 999):
            few = rows[: 100 if batch_rows < 64 else 3000]
            off = furthest(found.predict(few, batch_rows), expected.predict(few, batch_rows))
            assert off <= (1e-5 if precision == "float32" else BFLOAT16)
        with ThreadPoolExecutor(3) as pool:
            parts = list(pool.map(lambda size: found.predict(rows[:size], 500), (10, 1999, 2)))
        assert [len(part["prediction"]) for part in parts] == [10, 1999, 2]
        assert counters["stats"]["unique_graphs"] == 1

    def test_compiled_program_is_one_graph_and_gives_its_outputs(self, tmp_path: Path) -> None:
        from torch._dynamo.utils import counters

        counters.clear()
        torch.manual_seed(0)
        export(tmp_path / "m.pt2", NETWORKS["residual"]().eval())
        built = program.build((tmp_path / "m.pt2").read_bytes(), "m.pt2")
        signature = SIGNATURE.model_copy(update={"classes": (0, 1, 2)})
        rows = np.random.default_rng(1).normal(size=(200, 3)).astype(np.float32)
        found = Predictor(built, signature, "cpu", compiled=True).predict(rows, 64)
        assert furthest(found, Predictor(built, signature, "cpu").predict(rows, 64)) <= 1e-5
        assert counters["stats"]["unique_graphs"] == 1
        assert not counters["graph_break"]

    def test_run_compiled_stores_the_same_and_says_so(self, workspace: Workspace, tmp_path: Path) -> None:
        record = with_engine(workspace, "compile = true").complete()
        assert engine_of(record) == ("float32", True)
        plain = Workspace(tmp_path / "plain")
        plain.job()
        plain.model()
        plain.day(500)
        plain.complete()
        found, expected = stored(workspace), stored(plain)
        assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_run_compiled_without_a_compiler_says_what_to_do(workspace: Workspace, tmp_path: Path) -> None:
    with_engine(workspace, "compile = true")
    (tmp_path / "empty").mkdir()
    environment = {"PYTHONPATH": str(ROOT), "PATH": str(tmp_path / "empty"), "CXX": "", "HOME": str(tmp_path)}
    environment["TORCHINDUCTOR_CACHE_DIR"] = str(tmp_path / "compiled")
    command = [sys.executable, "-m", "pipeline", "run", "--job", "toy", "--date", DAY, "--json"]
    done = subprocess.run(command, cwd=workspace.root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    said = done.stdout + done.stderr
    assert "cannot be run compiled" in said
    assert "install a C++ compiler such as g++, or set compile = false" in said
    assert "Traceback" not in done.stderr
