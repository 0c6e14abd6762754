"""Reading checkpoints: which are rebuilt and which are refused, without running code from them."""

from __future__ import annotations

import os
import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pipeline.errors import ModelRefused
from pipeline.model import checkpoint
from tests.model.networks import classifier, save, save_classifier, state

X = torch.randn(50, 3, generator=torch.Generator().manual_seed(1))


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, (f"touch '{self.target}'",))


def refused(path: Path) -> str:
    with pytest.raises(ModelRefused) as caught:
        checkpoint.read(path)
    assert caught.value.where == str(path)
    assert caught.value.got
    return str(caught.value)


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize("wrapper", ["model_state_dict", "state_dict", None])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_build_of_a_saved_classifier_gives_its_outputs(
    tmp_path: Path, prefix: str, wrapper: str | None, form: str
) -> None:
    network = classifier()
    parameters = OrderedDict((prefix + name, value) for name, value in network.state_dict().items())
    document = parameters if wrapper is None else {wrapper: parameters, "epoch": 3}
    read = checkpoint.read(save(tmp_path / "m.pt", document, legacy=form == "legacy"))
    with torch.inference_mode():
        torch.testing.assert_close(checkpoint.build(read)(X), network(X), rtol=0, atol=0)


@pytest.mark.parametrize(
    "network",
    [
        nn.Linear(3, 2),
        nn.Sequential(
            nn.Linear(3, 5, bias=False), nn.ReLU(), nn.Dropout(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)
        ),
        nn.ModuleDict({"net": nn.Sequential(nn.Linear(3, 1))}),
    ],
    ids=["one layer", "without bias", "one logit"],
)
def test_build_of_other_linear_stacks_gives_their_outputs(tmp_path: Path, network: nn.Module) -> None:
    read = checkpoint.read(save(tmp_path / "m.pt", {"model_state_dict": network.state_dict()}))
    run = network["net"] if isinstance(network, nn.ModuleDict) else network
    with torch.inference_mode():
        torch.testing.assert_close(checkpoint.build(read)(X), run.eval()(X), rtol=0, atol=0)


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16, torch.float16])
def test_read_other_float_types_gives_float32(tmp_path: Path, kind: torch.dtype) -> None:
    network = classifier().to(kind)
    read = checkpoint.read(save(tmp_path / "m.pt", network.state_dict()))
    assert {tensor.dtype for layer in read.layers for tensor in layer if tensor is not None} == {torch.float32}
    assert torch.equal(read.layers[0].weight, network.fc1.weight.float())


def test_read_checkpoint_saved_on_a_gpu_is_read_without_one(tmp_path: Path) -> None:
    path = save_classifier(tmp_path / "m.pt")
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    place, elsewhere = b"X\x03\0\0\0cpu", b"X\x06\0\0\0cuda:0"  # as pickle encodes the device of each tensor
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, content.replace(place, elsewhere) if name.endswith("data.pkl") else content)
    assert elsewhere in path.read_bytes()
    assert torch.equal(checkpoint.read(path).layers[0].weight, classifier().fc1.weight)


def test_read_transposed_weights_gives_the_same_values(tmp_path: Path) -> None:
    weight = torch.arange(6.0).reshape(3, 2).t()  # (2, 3), not contiguous
    read = checkpoint.read(save(tmp_path / "m.pt", {"fc.weight": weight}))
    assert torch.equal(read.layers[0].weight, weight)


def test_read_full_checkpoint_keeps_what_it_states(tmp_path: Path) -> None:
    stated = {"input_dim": 3, "hidden_dim": 8, "output_dim": 2, "version": 1.5, "activation": "nn.ReLU"}
    names = {"feature_names": ["a", "b", "c"], "classes": ["no", "yes"]}
    read = checkpoint.read(save_classifier(tmp_path / "m.pt", **stated, **names))
    assert read.declared == {"input_dim": 3, "hidden_dim": 8, "output_dim": 2}
    assert (read.features, read.classes, read.version) == (("a", "b", "c"), ("no", "yes"), "1.5")
    assert (read.inputs, read.outputs, read.class_count) == (3, 2, 2)


def test_read_bare_checkpoint_states_nothing(tmp_path: Path) -> None:
    read = checkpoint.read(save(tmp_path / "m.pt", {"model_state_dict": classifier().state_dict(), "features": 3}))
    assert (read.declared, read.features, read.classes, read.version) == ({}, None, None, None)


def test_read_version_that_is_not_text_is_storable(tmp_path: Path) -> None:
    assert checkpoint.read(save_classifier(tmp_path / "m.pt", version="v\udce9")).version == "v?"
    assert checkpoint.read(save_classifier(tmp_path / "m.pt", version={"major": 1})).version is None


def test_build_leaves_the_random_numbers_alone(tmp_path: Path) -> None:
    read = checkpoint.read(save_classifier(tmp_path / "m.pt"))
    before = torch.get_rng_state()
    checkpoint.build(read)
    assert torch.equal(torch.get_rng_state(), before)


# Not a stack of linear layers


class With(nn.Module):
    """Two linear layers, and what else is given: modules, or tensors as buffers."""

    def __init__(self, **others: nn.Module | torch.Tensor) -> None:
        super().__init__()
        for name, other in others.items():
            if isinstance(other, torch.Tensor):
                self.register_buffer(name, other)
            else:
                setattr(self, name, other)
        self.net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def scaler() -> nn.Module:
    found = nn.Module()
    found.register_buffer("mean_", torch.zeros(1, 3))
    found.register_buffer("scale_", torch.ones(1, 3))
    return found


KEEPS_ALL = "export the model with torch.export, which keeps all layers"


@pytest.mark.parametrize(
    ("network", "named", "way"),
    [
        (With(layer=nn.BatchNorm1d(4)), "BatchNorm: `layer.weight` (4,)", "torch.nn.utils.fuse_linear_bn_eval"),
        (With(layer=nn.LayerNorm(4)), "cannot be folded into another layer: `layer.weight` (4,)", KEEPS_ALL),
        (With(layer=nn.RMSNorm(4)), "LayerNorm, GroupNorm or RMSNorm", KEEPS_ALL),
        (With(layer=nn.PReLU()), "PReLU: `layer.weight` (1,)", KEEPS_ALL),
        (With(layer=nn.Conv1d(1, 4, 2)), "a convolution: `layer.weight` (4, 1, 2)", KEEPS_ALL),
        (With(layer=nn.GRU(3, 4)), "GRU or LSTM): `layer.weight_ih_l0` (12, 3)", KEEPS_ALL),
        (With(layer=nn.MultiheadAttention(4, 2)), "attention: `layer.in_proj_weight` (12, 4)", KEEPS_ALL),
        (With(layer=nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))), "weight_norm", "remove_parametrizations"),
        (
            With(criterion=nn.BCEWithLogitsLoss(pos_weight=torch.ones(1))),
            "part of the loss, which scoring does not need: `criterion.pos_weight` (1,)",
            "{k: v for k, v in model.state_dict().items() if k not in {'criterion.pos_weight'}}",
        ),
        (With(loss_fn=nn.CrossEntropyLoss(weight=torch.ones(2))), "part of the loss", "'loss_fn.weight'"),
        (With(pos_weight=torch.ones(1)), "part of the loss", "if k not in {'pos_weight'}"),
        (
            With(mean=torch.zeros(3), std=torch.ones(3)),
            "values of a scaler; a state dict does not say how the model uses them: `mean` (3,), `std` (3,)",
            "save them beside the state dict, as lists of numbers, and pass --scaling checkpoint",
        ),
        (
            With(scaler=scaler()),
            "values of a scaler",
            "save them beside the state dict, as lists of numbers, and pass --scaling checkpoint",
        ),
        (With(one=nn.LayerNorm(4), other=nn.BatchNorm1d(4)), "BatchNorm and LayerNorm", KEEPS_ALL),
    ],
    ids=lambda value: next(iter(value.named_children()))[0] if isinstance(value, nn.Module) else None,
)
def test_read_other_layers_names_them_and_the_way_that_works(
    tmp_path: Path, network: nn.Module, named: str, way: str
) -> None:
    path = save(tmp_path / "m.pt", {"model_state_dict": network.state_dict()})
    text = refused(path)
    assert "only linear layers with activations between them" in text
    assert named in text
    assert "`net" not in text, "linear layers are not to blame"
    with pytest.raises(ModelRefused) as caught:
        checkpoint.read(path)
    assert way in str(caught.value.next_step)
    assert ("fold" in str(caught.value.next_step)) == ("BatchNorm" in named and way != KEEPS_ALL)


def test_advice_on_the_loss_and_on_weight_norm_gives_a_checkpoint_that_is_read(tmp_path: Path) -> None:
    network = With(criterion=nn.BCEWithLogitsLoss(pos_weight=torch.ones(1)))
    kept = {k: v for k, v in network.state_dict().items() if k not in {"criterion.pos_weight"}}  # noqa: FURB171
    checkpoint.read(save(tmp_path / "loss.pt", kept))
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    nn.utils.parametrize.remove_parametrizations(layer, "weight")
    checkpoint.read(save(tmp_path / "norm.pt", layer.state_dict()))


def dynamically_quantized() -> dict[str, object]:
    """Returns a state dict as torch's dynamic quantization names its values."""
    packed = torch.quantize_per_tensor(torch.ones(2, 3), 0.1, 0, torch.qint8)
    return {
        "fc.scale": torch.tensor(1.0),
        "fc.zero_point": torch.tensor(0),
        "fc._packed_params.dtype": torch.qint8,
        "fc._packed_params._packed_params": (packed, torch.zeros(2)),
    }


@pytest.mark.parametrize(
    "parameters",
    [
        lambda: {"fc.weight": torch.ones(2, 3, dtype=torch.int8), "fc.bias": torch.ones(2)},
        lambda: {"fc.weight": torch.quantize_per_tensor(torch.ones(2, 3), 0.1, 0, torch.qint8)},
        dynamically_quantized,
    ],
    ids=["int8", "qint8", "dynamic"],
)
def test_read_integer_weights_names_the_way_that_works(tmp_path: Path, parameters: Callable[[], object]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls quantized tensors deprecated
        path = save(tmp_path / "m.pt", {"model_state_dict": parameters()})
        with pytest.raises(ModelRefused, match=r"weights of a quantized model \(int8\)") as caught:
            checkpoint.read(path)
    assert "save the state dict of the model before it was quantized" in str(caught.value.next_step)
    assert 'precision = "bfloat16"' in str(caught.value.next_step)


def test_read_numpy_values_says_how_to_save_them(tmp_path: Path) -> None:
    document = {"model_state_dict": classifier().state_dict(), "feature_mean": np.zeros(3)}
    with pytest.raises(ModelRefused, match="reference to numpy") as caught:
        checkpoint.read(save(tmp_path / "m.pt", document))
    assert "array.tolist()" in str(caught.value.next_step)
    document["feature_mean"] = np.zeros(3).tolist()
    checkpoint.read(save(tmp_path / "m.pt", document))


@pytest.mark.parametrize(
    "parameters",
    [
        state(fc1__weight=(4, 3), fc1__bias=(5,)),
        state(fc1__bias=(4,), fc2__weight=(2, 4)),
        state(fc1__weight=(4, 3), fc1__bias=(4,), fc1__scale=(4,)),
        state(w1=(4, 3), w2=(2, 4)),
    ],
    ids=["bias of another length", "bias alone", "third parameter", "matrices that are no layers"],
)
def test_read_parameters_that_are_not_a_layer_is_refused(tmp_path: Path, parameters: dict[str, torch.Tensor]) -> None:
    text = refused(save(tmp_path / "m.pt", parameters))
    assert "only linear layers" in text
    assert "(4,)" in text or "(5,)" in text or "(4, 3)" in text


def test_read_checkpoint_with_compressed_records_is_refused_before_they_are_unpacked(tmp_path: Path) -> None:
    """A file of a few kilobytes could become gigabytes of zeros."""
    torch.save({"0.weight": torch.zeros(2, 200_000), "0.bias": torch.zeros(2)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry in plain.infolist():
            packed.writestr(entry.filename, plain.read(entry))
    assert checkpoint.read(tmp_path / "plain.pt").inputs == 200_000
    assert "more content than its file has" in refused(tmp_path / "packed.pt")


def test_read_layers_out_of_order_is_refused(tmp_path: Path) -> None:
    text = refused(save(tmp_path / "m.pt", state(out__weight=(2, 4), fc1__weight=(4, 3))))
    assert "do not chain" in text
    assert "`out.weight` outputs 2 values, `fc1.weight` takes 3" in text
    assert "in the order in which they run" in text


@pytest.mark.parametrize(
    ("stated", "layers"),
    [({"input_dim": 4}, "3 to 8"), ({"hidden_dim": 64}, "8 to 4"), ({"output_dim": 3}, "4 to 2")],
    ids=str,
)
def test_read_stated_dimension_that_weights_contradict_is_refused(
    tmp_path: Path, stated: dict[str, object], layers: str
) -> None:
    text = refused(save_classifier(tmp_path / "m.pt", **stated))
    ((key, value),) = stated.items()
    assert f"`{key}` {value}, as stated" in text
    assert layers in text


def test_read_hidden_dimension_without_hidden_layer_is_refused(tmp_path: Path) -> None:
    document = {"state_dict": nn.Linear(3, 2).state_dict(), "hidden_dim": 64}
    assert "layers of 3 to 2" in refused(save(tmp_path / "m.pt", document))


def test_read_dimension_that_is_not_an_integer_is_refused(tmp_path: Path) -> None:
    assert "`hidden_dim` is not an integer" in refused(save_classifier(tmp_path / "m.pt", hidden_dim=[8, 4]))


@pytest.mark.parametrize("activation", ["tanh", "nn.LeakyReLU"])
def test_read_another_activation_is_refused(tmp_path: Path, activation: str) -> None:
    assert activation in refused(save_classifier(tmp_path / "m.pt", activation=activation))


# Invalid weights


@pytest.mark.parametrize(
    "bad",
    [torch.nan, torch.inf, -torch.inf, torch.tensor(1e300, dtype=torch.float64)],
    ids=["nan", "inf", "-inf", "1e300"],
)
def test_read_weights_not_finite_is_refused(tmp_path: Path, bad: float | torch.Tensor) -> None:
    network = classifier().double()
    network.fc2.bias.data[1] = bad
    text = refused(save(tmp_path / "m.pt", network.state_dict()))
    assert "`fc2.bias` has weights that are not finite" in text
    assert "1 of 4" in text


@pytest.mark.parametrize(
    "weight",
    [
        torch.ones(2, 3, dtype=torch.int64),
        torch.ones(2, 3, dtype=torch.complex64),
        torch.ones(2, 3, device="meta"),
        torch.ones(2, 3).to_sparse(),
        torch.ones(1).expand(1 << 20, 1 << 20),  # 4 bytes that look like 4 TiB
        torch.ones(2, 0),
    ],
    ids=["int64", "complex", "meta", "sparse", "stride 0", "empty"],
)
def test_read_weights_that_are_not_plain_floats_is_refused(tmp_path: Path, weight: torch.Tensor) -> None:
    text = refused(save(tmp_path / "m.pt", {"fc.weight": weight}))
    assert "`fc.weight` is not a plain tensor of floating-point numbers" in text


# Not a checkpoint, or one with code


@pytest.mark.parametrize("form", ["zip", "legacy", "protocol 2", "protocol 4"])
def test_read_malicious_pickle_is_refused_and_not_run(tmp_path: Path, form: str) -> None:
    target, path = tmp_path / "executed", tmp_path / "m.pt"
    document = {"model_state_dict": classifier().state_dict(), "extra": Malicious(target)}
    if form.startswith("protocol"):
        path.write_bytes(pickle.dumps(Malicious(target), protocol=int(form[-1])))
    else:
        save(path, document, legacy=form == "legacy")
    text = refused(path)
    assert not target.exists()
    assert "without running code" in text if form == "protocol 4" else "posix.system" in text
    assert "torch.save(" in text
    if not form.startswith("protocol"):
        torch.load(path, weights_only=False)
        assert target.exists()  # proves that the file was dangerous


def test_read_whole_pickled_module_is_refused_with_the_way_out(tmp_path: Path) -> None:
    text = refused(save(tmp_path / "m.pt", classifier()))
    assert "tests.model.networks.SimpleClassifier" in text
    assert 'torch.save({"model_state_dict": model.state_dict()}, path)' in text


@pytest.mark.parametrize(
    "content",
    [b"", b"hello world\n" * 10, b"\x89PNG\r\n\x1a\n" + b"x" * 100, b"PAR1" + b"\0" * 200 + b"PAR1"],
    ids=["empty", "text", "png", "parquet"],
)
def test_read_other_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.pt").write_bytes(content)
    assert "not a checkpoint" in refused(tmp_path / "m.pt")


def test_read_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    path = save_classifier(tmp_path / "m.pt")
    path.write_bytes(path.read_bytes()[:-200])
    assert "not a checkpoint" in refused(path)


def test_read_other_archive_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("m/readme.txt", "no model")
    assert "not a checkpoint" in refused(tmp_path / "m.pt")


def test_read_flipped_bit_in_a_weight_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "m.pt", {"fc.weight": torch.full((2, 3), 0.5)})
    content = path.read_bytes()
    half = np.float32(0.5).tobytes() * 6
    assert content.count(half) == 1
    path.write_bytes(content.replace(half, half[:-1] + b"\x3e"))
    assert "a checksum does not match" in refused(path)


@pytest.mark.parametrize(
    ("document", "got"),
    [
        ([torch.ones(2, 3)], "a list"),
        ({"weights": {"fc.weight": torch.ones(2, 3)}, "epoch": 3}, "`weights`, `epoch` beside 0 tensors"),
        ({"model_state_dict": {"fc.weight": torch.ones(2, 3), "scale": 2.0}}, "in `model_state_dict`, `scale`"),
        ({"model_state_dict": None}, "`model_state_dict`, which is not a dictionary of tensors"),
        ({"model_state_dict": {0: torch.ones(2, 3)}}, "`0` beside 0 tensors"),
        ({}, "an empty dictionary"),
    ],
    ids=["list", "other keys", "not only tensors", "none", "numbers as names", "empty"],
)
def test_read_document_without_state_dict_is_refused(tmp_path: Path, document: object, got: str) -> None:
    text = refused(save(tmp_path / "m.pt", document))
    assert "contains no state dict" in text
    assert got in text


def test_read_archive_with_a_damaged_directory_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "m.pt", {"model_state_dict": classifier().state_dict()})
    path.write_bytes(path.read_bytes().replace(b"PK\x01\x02", b"PK\x01\x03", 1))
    assert "not a checkpoint that can be loaded" in refused(path)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("sound")
    document = {"model_state_dict": classifier().state_dict(), "version": "v"}
    return [save(folder / "m.pt", document, legacy=legacy).read_bytes() for legacy in (False, True)]


@given(data=st.data())
def test_parse_damaged_bytes_reads_or_refuses(sound: list[bytes], data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(sound)))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(content) - 1))
        content[start : start + data.draw(st.integers(1, 8))] = data.draw(st.binary(max_size=8))
    try:
        read = checkpoint.parse(bytes(content), "memory")
    except ModelRefused:
        return
    assert checkpoint.build(read)(X[:, :1].expand(-1, read.inputs)).shape == (50, read.outputs)
