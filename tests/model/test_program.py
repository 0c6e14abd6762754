"""torch.export programs of any architecture are read as data; only tensor operations in the file are run."""

from __future__ import annotations

import copy
import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.errors import ModelRefused
from pipeline.model import archive, operations, program
from pipeline.model.card import Card
from pipeline.model.registry import Registry
from tests.model import architectures
from tests.model.programs import export, tampered

X = torch.from_numpy(np.random.default_rng(1).normal(size=(50, 3)).astype(np.float32))


@pytest.fixture(scope="module")
def simple(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return export(
        tmp_path_factory.mktemp("program") / "m.pt2", nn.Sequential(nn.Linear(3, 4), nn.ELU(), nn.Linear(4, 2)).eval()
    )


PRECISIONS = {torch.float32: 1e-5, torch.float64: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
"""Tolerance by the precision of the weights: a decomposed program rounds elsewhere than torch's own layers."""
FAST = {
    *((name, False) for name in ("attention", "convolution", "dlrm", "gated", "gru", "lstm")),
    ("batch norm", True),
}
MATRIX = [
    pytest.param(
        *(name, decomposed, precision),
        marks=[] if (name, decomposed) in FAST and precision == torch.float32 else pytest.mark.slow,
        id=f"{name}-{'decomposed' if decomposed else 'plain'}-{str(precision).removeprefix('torch.')}",
    )
    for name in architectures.NETWORKS
    for decomposed in (False, True)
    for precision in PRECISIONS
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "decomposed", "precision"), MATRIX)
def test_program_of_any_architecture_gives_its_outputs(
    tmp_path: Path, name: str, decomposed: bool, precision: torch.dtype
) -> None:
    module, rows = architectures.network(name, precision), architectures.rows(50)
    path = export(tmp_path / "m.pt2", module, architectures.FEATURES, decomposed=decomposed)
    found = program.build(path.read_bytes(), "m.pt2")
    with torch.inference_mode():
        expected = module(rows).reshape(50, -1)
        assert (found.inputs, found.outputs) == (architectures.FEATURES, expected.shape[1])
        for count in (50, 1, 7):
            tolerance = PRECISIONS[precision]
            torch.testing.assert_close(found(rows[:count].clone()), expected[:count], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name == "residual" else pytest.mark.slow) for name in architectures.NETWORKS],
)
def test_registered_program_of_any_architecture_gives_its_probabilities(tmp_path: Path, name: str) -> None:
    module, rows = architectures.network(name), architectures.rows(50)
    with torch.inference_mode():
        raw = module(rows).reshape(50, -1)
        two = torch.cat([torch.zeros_like(raw), raw], 1) if raw.shape[1] == 1 else raw
        expected = torch.softmax(two, 1)[:, 1]
    features = [f"f{index}" for index in range(architectures.FEATURES)]
    vocabulary = {"kind": "category", "vocabulary": list(range(architectures.VALUES))}
    inputs = dict.fromkeys(features[: architectures.CATEGORIES], vocabulary)
    registry = Registry(tmp_path / "models")
    manifest = registry.register(
        export(tmp_path / "m.pt2", module, architectures.FEATURES),
        name="m",
        version="v1",
        features=features,
        card=Card(signature={"inputs": inputs}),
    )
    assert (manifest.kind, manifest.file) == ("program", "model.pt2")
    assert manifest.provenance is not None
    assert manifest.provenance.versions["file"] == f"torch {torch.__version__}"
    found = registry.load(registry.resolve("m", "v1"), "cpu").predict(rows.numpy(), 16)
    np.testing.assert_allclose(found["prob_class_1"], expected, rtol=0, atol=1e-5)


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
    with pytest.raises(ModelRefused, match="for exactly 32 rows at a time") as caught:
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
    [
        (Two(), "2 outputs, and one is stored"),
        (Labels(), "outputs whole numbers, which are classes"),
        (Random(), "aten.rand_like"),
    ],
)
def test_program_that_gives_something_else_is_refused(tmp_path: Path, module: nn.Module, said: str) -> None:
    path = export(tmp_path / "m.pt2", module)
    with pytest.raises(ModelRefused, match=said):
        program.build(path.read_bytes(), path)


class Sequence(nn.Module):
    """A recurrent layer of two layers, which is random while training."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(1, 4, num_layers=2, dropout=0.5, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.layer(x.unsqueeze(2))[0][:, -1]
        return result


@pytest.mark.parametrize(
    "layer", [nn.Dropout(0.5), nn.BatchNorm1d(3), nn.RReLU(), Sequence()], ids=lambda each: str(each)[:9]
)
def test_program_exported_while_training_is_refused(tmp_path: Path, layer: nn.Module) -> None:
    path = export(tmp_path / "m.pt2", layer.train())
    with pytest.raises(ModelRefused, match=r"training|not modify its own state"):
        program.build(path.read_bytes(), path)


# Files that try to do more than compute


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
    """Loads a file with torch's own loader."""
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
    with pytest.raises(Exception):  # noqa: B017, PT011 -- depends on what torch does with the code's result
        loads(content, tmp_path)
    assert mark.exists(), "the attack does not work: torch itself does not run it"
    mark.unlink()
    with pytest.raises(ModelRefused, match="pickled code; it was not run"):
        program.build(content, "attack.pt2")
    assert not mark.exists()


@pytest.mark.parametrize("flag", [{"as_bool": True}, {"as_int": 1}, {"as_sym_bool": {"as_name": "linear"}}], ids=str)
def test_training_mode_under_another_name_is_refused(tmp_path: Path, flag: Any) -> None:
    """The names of the arguments in a file are not checked by torch; dropout that is on would be random."""

    def edit(name: str, content: Any) -> Any:
        if name.endswith("models/model.json"):
            (node,) = (each for each in content["graph_module"]["graph"]["nodes"] if "dropout" in each["target"])
            node["inputs"][2] = {**node["inputs"][2], "name": "renamed", "arg": flag}
        return content

    path = export(tmp_path / "m.pt2", nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)).eval())
    with pytest.raises(ModelRefused, match="in training mode"):
        program.build(tampered(path, edit), "attack.pt2")


@pytest.mark.parametrize(
    ("sizes", "strides"),
    [((2**28, 3), (0, 1)), ((4, 3), (0, 1)), ((2**60, 2**60), (0, 0))],
    ids=["3 GB", "4", "2**120"],
)
def test_weight_that_is_larger_than_its_bytes_is_refused_before_it_is_made(
    tmp_path: Path, sizes: tuple[int, int], strides: tuple[int, int]
) -> None:
    def edit(name: str, content: Any) -> Any:
        if name.endswith("weights_config.json"):
            meta = content["config"]["weight"]["tensor_meta"]
            meta["sizes"], meta["strides"] = ([{"as_int": each} for each in values] for values in (sizes, strides))
        return content

    path = export(tmp_path / "m.pt2", nn.Linear(3, 1).eval())
    with pytest.raises(ModelRefused, match="'weight' is larger than its bytes"):
        program.build(tampered(path, edit), "attack.pt2")


def test_bytes_under_many_names_are_not_many_tensors(tmp_path: Path) -> None:
    """Shared weights are read once; names that give the same bytes another shape do not add up without a limit."""

    def edit(of: Callable[[int], list[int]]) -> Callable[[str, Any], Any]:
        def edited(name: str, content: Any) -> Any:
            if name.endswith("weights_config.json"):
                weight = content["config"]["weight"]
                for number in range(1, 1000):
                    sizes = [{"as_int": size} for size in of(number)]
                    meta = {**weight["tensor_meta"], "sizes": sizes}
                    content["config"][f"copy{number}"] = {**weight, "tensor_meta": meta}
            return content

        return edited

    path = export(tmp_path / "m.pt2", nn.Linear(3, 1000).eval())
    found = archive.Archive(tampered(path, edit(lambda _number: [1000, 3])), "shared.pt2").tensors("weights")
    assert len({tensor.data_ptr() for tensor in found.values()}) == 2  # weight and bias
    with pytest.raises(ModelRefused, match="is larger than its bytes"):
        archive.Archive(tampered(path, edit(lambda number: [number, 3])), "attack.pt2").tensors("weights")


def test_archive_whose_entries_are_larger_than_its_file_is_refused(tmp_path: Path) -> None:
    path = export(tmp_path / "m.pt2", nn.Linear(3, 1).eval())
    with zipfile.ZipFile(path) as packed:
        entries = {entry.filename: packed.read(entry) for entry in packed.infolist()}
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in entries.items():
            packed.writestr(name, content)
        largest = max(packed.infolist(), key=lambda entry: entry.file_size)
        for number in range(100):  # as in a bomb of overlapping entries: each name stands for the same bytes
            twin = copy.copy(largest)
            twin.filename = f"{largest.filename}{number}"
            packed.filelist.append(twin)
    with pytest.raises(ModelRefused, match="more content than its file has"):
        program.build(path.read_bytes(), path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("weight", "shape"),
    [("weight_ih_l0", (1, 1)), ("weight_hh_l0", (1, 1)), ("bias_ih_l0", (1,)), ("bias_hh_l1", (2,))],
)
def test_recurrent_layer_with_weights_that_are_too_small_is_not_run(
    tmp_path: Path, weight: str, shape: tuple[int, ...]
) -> None:
    """With such weights torch's own LSTM reads memory that does not belong to them, or crashes."""

    def edit(name: str, content: Any) -> Any:
        if name.endswith("weights_config.json"):
            meta = content["config"][f"layer.{weight}"]["tensor_meta"]
            meta["sizes"] = [{"as_int": size} for size in shape]
            meta["strides"] = [{"as_int": 1} for _ in shape]
        return content

    path = export(tmp_path / "m.pt2", Sequence().eval())
    program.build(path.read_bytes(), path)(X)
    built = program.build(tampered(path, edit), "attack.pt2")
    with pytest.raises(ModelRefused, match="recurrent layer do not have the shapes"):
        built(X)


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
        "torch.ops.aten.lstm.data",
        "torch.ops.aten.gru.data",
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

    with pytest.raises(ModelRefused, match="operation that is not allowed"):
        program.build(tampered(simple, edit), "attack.pt2")


def test_allowed_operations_exist_and_take_no_file() -> None:
    names = sorted(operations.COMPOSITE | operations.IN_PLACE | set(operations.GATES))
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
        (damaged_sizes, "is larger than its bytes"),
        (other_schema, "schema of the graph is not version 8"),
        (no_graph, "not in the format of torch.export"),
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
    with pytest.raises(ModelRefused, match="a checksum does not match"):
        program.build(bytes(content), "m.pt2")


def test_damaged_archive_is_refused_without_a_traceback(tmp_path: Path) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("x/models/model.json", "{}")
    damaged = content.getvalue()[:-30] + b"PK\x05\x06" + b"\xff" * 18
    assert not archive.looks_like_one(damaged)
