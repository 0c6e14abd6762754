"""torch.export programs: any architecture, read as data; nothing in the file is run but tensor operations."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.errors import ModelRefused
from pipeline.model import archive, operations, program
from pipeline.model.registry import Registry
from tests.model.programs import export, tampered

X = torch.from_numpy(np.random.default_rng(1).normal(size=(50, 3)).astype(np.float32))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Linear(3, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.norm = nn.LayerNorm(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.nn.functional.silu(self.first(x))
        hidden = self.norm(hidden + torch.tanh(self.second(hidden)))
        result: torch.Tensor = self.out(hidden)
        return result


class Gated(nn.Module):
    """Chunks, a product and a maximum: operations that give several results, and sizes that depend on the rows."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Linear(3, 8)
        self.out = nn.Linear(8, 2)
        self.scale: torch.Tensor
        self.register_buffer("scale", torch.tensor([1.0, 2.0, 0.5]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = self.both(x * self.scale).chunk(2, dim=1)
        best, _ = left.max(dim=1, keepdim=True)
        pooled = torch.cat([torch.sigmoid(left) * right, best.expand(x.shape[0], 4)], dim=1)
        result: torch.Tensor = self.out(pooled.reshape(x.shape[0], -1))
        return result


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(1, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.out = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.out(self.layer(self.embed(x.unsqueeze(2))).mean(dim=1))
        return result


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "batch norm": lambda: nn.Sequential(
        nn.Linear(3, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Dropout(0.3), nn.ReLU(inplace=True), nn.Linear(8, 2)
    ),
    "residual": Residual,
    "gated": Gated,
    "attention": Attention,
    "convolution": lambda: nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 4, 2), nn.Flatten(), nn.Linear(8, 2)),
}


@pytest.fixture(scope="module")
def simple(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return export(
        tmp_path_factory.mktemp("program") / "m.pt2", nn.Sequential(nn.Linear(3, 4), nn.ELU(), nn.Linear(4, 2)).eval()
    )


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("decomposed", [False, True])
def test_program_of_any_architecture_gives_its_outputs(tmp_path: Path, name: str, decomposed: bool) -> None:
    torch.manual_seed(0)
    module = NETWORKS[name]().eval()
    export(tmp_path / "m.pt2", module, decomposed=decomposed)
    found = program.build((tmp_path / "m.pt2").read_bytes(), "m.pt2")
    assert (found.inputs, found.outputs) == (3, module(X).shape[1])
    with torch.inference_mode():
        for rows in (50, 1, 7):
            torch.testing.assert_close(found(X[:rows].clone()), module(X[:rows].clone()), rtol=1e-5, atol=1e-6)


def test_register_program_and_load_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Residual().eval()
    registry = Registry(tmp_path / "models")
    path = export(tmp_path / "m.pt2", module)
    manifest = registry.register(path, name="m", version="v1", features=["a", "b", "c"], classes=["x", "y", "z"])
    assert (manifest.kind, manifest.file) == ("program", "model.pt2")
    assert manifest.provenance is not None
    assert manifest.provenance.versions["file"] == f"torch {torch.__version__}"
    found = registry.load(registry.resolve("m", "v1"), "cpu").predict(X.numpy(), 16)
    with torch.inference_mode():
        np.testing.assert_allclose(found["prob_class_2"], torch.softmax(module(X), 1)[:, 2], rtol=0, atol=1e-5)


def test_program_of_a_bounded_number_of_rows_is_scored_in_parts(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(3, 2)).eval()
    built = program.build(export(tmp_path / "m.pt2", module, most=16).read_bytes(), "m.pt2")
    assert built.most_rows == 16
    from pipeline.model.manifest import Signature
    from pipeline.model.predictor import Predictor

    seen: list[int] = []
    built.register_forward_pre_hook(lambda _module, arguments: seen.append(len(arguments[0])))
    Predictor(built, Signature(features=("a", "b", "c"), classes=(0, 1)), "cpu").predict(X.numpy(), 8192)
    assert seen == [16, 16, 16, 2]


def test_program_of_a_fixed_number_of_rows_is_refused(tmp_path: Path) -> None:
    path = export(tmp_path / "m.pt2", nn.Linear(3, 2), rows=32, dynamic=False)
    with pytest.raises(ModelRefused, match="for 32 rows at a time and no others") as caught:
        program.build(path.read_bytes(), path)
    assert "dynamic_shapes" in str(caught.value)


class Two(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x + 1, x * 2


class Labels(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.argmax(dim=1)


class Random(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand_like(x)


@pytest.mark.parametrize(
    ("module", "said"),
    [(Two(), "takes one tensor and gives one"), (Labels(), "does not take a matrix"), (Random(), "aten.rand_like")],
)
def test_program_that_gives_something_else_is_refused(tmp_path: Path, module: nn.Module, said: str) -> None:
    path = export(tmp_path / "m.pt2", module)
    with pytest.raises(ModelRefused, match=said):
        program.build(path.read_bytes(), path)


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.BatchNorm1d(3)])
def test_program_exported_while_training_is_refused(tmp_path: Path, layer: nn.Module) -> None:
    path = export(tmp_path / "m.pt2", layer.train())
    with pytest.raises(ModelRefused, match=r"training|changes nothing of itself"):
        program.build(path.read_bytes(), path)


# Files that want to do more than compute


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def with_pickled_weight(name: str, content: Any) -> Any:
    if name.endswith("weights_config.json"):
        next(iter(content["config"].values()))["use_pickle"] = True
    return content


def loads(content: bytes, tmp_path: Path) -> None:
    """Loads a file as torch itself does."""
    path = tmp_path / "attack.pt2"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.load(path)


def test_pickled_weight_is_refused_and_not_run(simple: Path, tmp_path: Path) -> None:
    mark = tmp_path / "executed"

    def edit(name: str, content: Any) -> Any:
        return pickle.dumps(Bomb(mark)) if name.endswith("weights/weight_0") else with_pickled_weight(name, content)

    content = tampered(simple, edit)
    with pytest.raises(Exception):  # noqa: B017, PT011 -- whatever torch makes of what the code returned
        loads(content, tmp_path)
    assert mark.exists(), "the attack is none: torch itself does not run it"
    mark.unlink()
    with pytest.raises(ModelRefused, match="pickled code; it was not run"):
        program.build(content, "attack.pt2")
    assert not mark.exists()


def test_code_in_sample_inputs_is_never_read(simple: Path, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    content = tampered(simple, lambda name, content: pickle.dumps(Bomb(mark)) if "sample_inputs" in name else content)
    program.build(content, "attack.pt2")
    assert not mark.exists()


def test_code_in_a_symbolic_size_is_not_evaluated(simple: Path, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    code = f"__import__('pathlib').Path({str(mark)!r}).touch()"

    def edit(name: str, content: Any) -> Any:
        text = json.dumps(content).replace("Symbol(", f"{code} or Symbol(") if name.endswith("model.json") else None
        return json.loads(text) if text else content

    with pytest.raises(ModelRefused):
        program.build(tampered(simple, edit), "attack.pt2")
    assert not mark.exists()


@pytest.mark.parametrize(
    "target",
    [
        "torch.os.system",
        "torch.load",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.save.default",
        "torch.ops.aten.linear.__class__",
        "torch.ops.prim.Print.default",
        "torch.ops.higher_order.cond",
        "torch.ops.aten.empty.memory_format",
        "torch.ops.aten.linear.out",
        "torch.ops.aten.set_.source_Tensor",
        "_operator.methodcaller",
        "_operator.attrgetter",
        "builtins.eval",
        "math.floor",
        "#custom:op",
        "",
    ],
)
def test_operation_that_is_not_allowed_is_refused(simple: Path, target: str) -> None:
    def edit(name: str, content: Any) -> Any:
        if name.endswith("models/model.json"):
            content["graph_module"]["graph"]["nodes"][0]["target"] = target
        return content

    with pytest.raises(ModelRefused, match="not one of those allowed"):
        program.build(tampered(simple, edit), "attack.pt2")


def test_allowed_operations_exist_and_take_no_file() -> None:
    names = sorted(operations.COMPOSITE | operations.IN_PLACE)
    unknown = [name for name in names if not hasattr(torch.ops.aten, name)]
    assert not unknown
    for name in names:
        packet = getattr(torch.ops.aten, name)
        for overload in packet.overloads():
            arguments = {argument.name for argument in getattr(packet, overload)._schema.arguments}
            assert not arguments & {"filename", "file_name", "file", "f"}, name


def test_serialized_numbers_are_those_of_torch() -> None:
    from torch._export.serde import schema
    from torch._export.serde.serialize import _SERIALIZE_TO_TORCH_DTYPE

    assert schema.SCHEMA_VERSION[0] == archive.SCHEMA
    assert {number: _SERIALIZE_TO_TORCH_DTYPE[number] for number in archive.DTYPES} == archive.DTYPES
    assert int(schema.Layout.Strided) == archive.STRIDED


def damaged_sizes(name: str, content: Any) -> Any:
    if name.endswith("weights_config.json"):
        next(iter(content["config"].values()))["tensor_meta"]["sizes"][0]["as_int"] = 10**9
    return content


def other_schema(name: str, content: Any) -> Any:
    return {**content, "schema_version": {"major": 99, "minor": 0}} if name.endswith("models/model.json") else content


def no_graph(name: str, content: Any) -> Any:
    return {**content, "graph_module": {}} if name.endswith("models/model.json") else content


def nan_weight(name: str, content: Any) -> Any:
    return np.full(len(content) // 4, np.nan, np.float32).tobytes() if name.endswith("weight_0") else content


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (damaged_sizes, "not one that torch.export writes"),
        (other_schema, "schema is not version 8"),
        (no_graph, "not one that torch.export writes"),
        (nan_weight, "not finite"),
    ],
)
def test_archive_that_is_not_as_torch_writes_it_is_refused(simple: Path, edit: Any, said: str) -> None:
    with pytest.raises(ModelRefused, match=said):
        program.build(tampered(simple, edit), "m.pt2")


def test_damaged_bytes_are_refused(simple: Path) -> None:
    content = bytearray(simple.read_bytes())
    at = bytes(content).index(b"torch.ops.aten.linear")
    content[at] ^= 1
    with pytest.raises(ModelRefused, match="a checksum in it differs"):
        program.build(bytes(content), "m.pt2")
