"""bfloat16 and torch.compile: faster forms of the same model, within a stated tolerance."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from pipeline.errors import ModelError, QualityStop
from pipeline.job.config import Precision
from pipeline.model import golden, program, trial_rows
from pipeline.model.card import Card
from pipeline.model.manifest import Signature
from pipeline.model.predictor import Predictor
from pipeline.model.registry import Registry
from pipeline.records import RunRecord
from tests.model import architectures
from tests.model.programs import export
from tests.model.tasks import TASKS, Task, furthest, matrix
from tests.workspace import DAY, Workspace

ROOT = Path(__file__).parent.parent.parent
BFLOAT16 = 2e-2
"""Tolerance for rows with values like those of the training data, as stated in docs/models.md."""
SIGNATURE = Signature(features=("a", "b", "c"), classes=(0, 1))
HAS_COMPILER = any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++"))

compiling = [
    pytest.mark.slow,
    pytest.mark.skipif(not HAS_COMPILER, reason="torch.compile needs a C++ compiler"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*", "ignore::FutureWarning:torch.*"),
]


def golden_of(task: Task) -> bytes:
    rows = trial_rows.gather(task.signature, None, None, "model.pt")
    return golden.make(Predictor(task.network(), task.signature, "cpu"), rows, None, "model.pt")


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


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_bfloat16_scores_do_not_depend_on_the_batch_size(task: Task) -> None:
    predictor, rows = in_bfloat16(task), matrix(1000)
    whole = predictor.predict(rows, 1000)
    for batch_rows in (1, 7, 64):
        assert furthest(predictor.predict(rows, batch_rows), whole) <= BFLOAT16


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_bfloat16_reproduces_the_golden_batch_within_its_tolerance(task: Task) -> None:
    content = golden_of(task)
    found = golden.compare(in_bfloat16(task), content)
    assert (found.tolerance, found.precision, found.reproduced) == (golden.BFLOAT16_TOLERANCE, "bfloat16", True)
    assert found.largest > golden.TOLERANCES["cpu"]


def test_bfloat16_another_model_is_detected_as_precisely_as_in_float32() -> None:
    task = TASKS[2]
    content = golden_of(task)
    other = task.network()
    with torch.no_grad():
        other[0].get_parameter("bias").add_(0.02)
    found = golden.compare(Predictor(other, task.signature, "cpu", precision="bfloat16"), content)
    assert (found.precision, found.reproduced) == ("float32", False)
    assert found.largest < golden.BFLOAT16_TOLERANCE


def exported(folder: Path, name: str) -> tuple[program.Program, Signature]:
    path = export(folder / "m.pt2", architectures.network(name), architectures.FEATURES)
    built = program.build(path.read_bytes(), path)
    features = tuple(f"f{index}" for index in range(architectures.FEATURES))
    return built, Signature(features=features, classes=tuple(range(max(2, built.outputs))))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("gru", "residual") else pytest.mark.slow)
        for name in architectures.NETWORKS
    ],
)
def test_bfloat16_programs_are_near_their_outputs_in_float32(tmp_path: Path, name: str) -> None:
    built, signature = exported(tmp_path, name)
    rows = architectures.rows(200).numpy()
    found = Predictor(built, signature, "cpu", precision="bfloat16").predict(rows, 64)
    expected = Predictor(built, signature, "cpu").predict(rows, 64)
    assert 1e-5 < furthest(found, expected) <= BFLOAT16


class OfOneType(nn.Module):
    """Adds the layer's output to a float32 sum in place; torch refuses that if the output has another type."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(x), 2).index_add_(0, torch.arange(len(x)), self.layer(x))


def test_bfloat16_model_that_does_not_support_it_is_refused_with_a_next_step() -> None:
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


@pytest.mark.slow
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
    weights = {"0.weight": [[1.0, 0.0]], "0.bias": [1000.0], "2.weight": [[0.0], [1.0]], "2.bias": [0.0, -1000.0]}
    network = {name: torch.tensor(values) for name, values in weights.items()}  # in bfloat16, 1000 + x is 1000
    stated = {"model_state_dict": network, "input_dim": 2, "hidden_dim": 1, "output_dim": 2}
    torch.save(stated, workspace.root / "steep.pt")
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


# Weights in 16 bits


class Sixteen(nn.Module):
    """Computes in 16 bits, and ends in a given step."""

    def __init__(self, dtype: torch.dtype, end: Callable[[torch.Tensor], torch.Tensor], outputs: int = 40) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.body = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, outputs)).to(dtype)
        self.dtype, self.end = dtype, end

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.end(self.body(x.to(self.dtype)))


SIXTEEN_BITS = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
LAST: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "logits": lambda z: z,
    "softmax": lambda z: torch.softmax(z, dim=1),
    "softmax, as float32": lambda z: torch.softmax(z, dim=1).float(),
    "log_softmax": lambda z: torch.log_softmax(z, dim=1),
}


@pytest.mark.slow
@SIXTEEN_BITS
@pytest.mark.parametrize("end", LAST)
def test_probabilities_of_weights_in_16_bits_are_those_of_their_outputs_in_float32(
    tmp_path: Path, dtype: torch.dtype, end: str
) -> None:
    module = Sixteen(dtype, LAST[end]).eval()
    registry = Registry(tmp_path / "models")
    path = export(tmp_path / "m.pt2", module, 2)
    predictor = registry.load(registry.register(path, name="m", version="v1", features=("a", "b")), "cpu")
    rows = np.random.default_rng(2).normal(size=(300, 2)).astype(np.float32)
    found = np.column_stack([predictor.predict(rows, 64)[f"prob_class_{index}"] for index in range(40)])
    assert np.abs(found.sum(axis=1, dtype=np.float64) - 1).max() < 1e-6
    with torch.inference_mode():
        raw = module(torch.from_numpy(rows)).double()
    wanted = {"logits": torch.softmax(raw, 1), "log_softmax": raw.exp() / raw.exp().sum(1, keepdim=True)}
    expected = wanted.get(end, raw / raw.sum(1, keepdim=True)).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


@SIXTEEN_BITS
def test_sigmoid_and_variance_of_weights_in_16_bits_are_computed_in_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    rows = np.random.default_rng(2).normal(size=(300, 2)).astype(np.float32)
    module = Sixteen(dtype, LAST["logits"], 2).eval()
    with torch.inference_mode():
        raw = module(torch.from_numpy(rows)).double()
    labels = Signature(features=("a", "b"), task="multilabel", classes=(0, 1))
    found = Predictor(module, labels, "cpu").predict(rows, 64)["prob_class_1"]
    np.testing.assert_allclose(found, torch.sigmoid(raw[:, 1]).numpy(), rtol=0, atol=1e-6)
    normal = Signature(features=("a", "b"), task="regression", variance="log_variance")
    found = Predictor(module, normal, "cpu").predict(rows, 64)["value_variance"]
    np.testing.assert_allclose(found, raw[:, 1].exp().numpy(), rtol=1e-6)


@pytest.mark.slow
@SIXTEEN_BITS
@pytest.mark.parametrize("end", ["logits", "softmax, as float32"])
def test_run_of_weights_in_16_bits_commits(tmp_path: Path, dtype: torch.dtype, end: str) -> None:
    made = Workspace(tmp_path)
    made.job()
    made.day(500)
    path = export(tmp_path / "m.pt2", Sixteen(dtype, LAST[end]).eval(), 2)
    registry = Registry(Path(made.settings.models))
    registry.register(path, name="toy", version="v1", features=("a", "b"), alias="production")
    checks = {check.name: check.outcome for check in made.complete().checks}
    assert (checks["probabilities_sum"], checks["golden_batch"]) == ("passed", "passed")


def test_probability_just_above_one_by_rounding_is_one_and_any_further_is_kept() -> None:
    given = torch.tensor([[1.0000002, -1e-7], [1.3, -0.3]])
    signature = Signature(features=("a", "b"), classes=(0, 1), outputs="probabilities")
    found = Predictor(nn.Identity(), signature, "cpu").predict(given.numpy(), 8)
    assert found["prob_class_0"].tolist() == pytest.approx([1.0, 1.3])
    assert found["prob_class_1"].tolist() == pytest.approx([0.0, -0.3])
    assert (found["prob_class_0"][0], found["prob_class_1"][0]) == (1.0, 0.0)


# torch.compile


@pytest.fixture
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hides code that was compiled earlier, by other tests or outside of the tests.

    A run in this process may have set this thread's number of threads; code is compiled again for each such number.
    """
    torch._dynamo.reset()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    before = torch.get_num_threads()
    with ThreadPoolExecutor(1) as pool:
        torch.set_num_threads(pool.submit(torch.get_num_threads).result())
    yield
    torch.set_num_threads(before)


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
        built, signature = exported(tmp_path, "residual")
        rows = architectures.rows(200).numpy()
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
