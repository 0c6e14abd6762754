"""Checkpoints: a state dict saved with `torch.save`, rebuilt as linear layers with an activation between them.

Each two-dimensional `weight` is a linear layer, in the order of the state dict. Anything else is refused. Whether the
layers are run like this is not in the file: `unstated.py` asks for it at registration.
"""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from pipeline.errors import ModelRefused
from pipeline.model import other_tensors, scalers
from pipeline.model.archive import is_larger_than_its_file

WRAPPERS = ("model_state_dict", "state_dict")
DIMENSIONS = ("input_dim", "hidden_dim", "output_dim")
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": partial(nn.ReLU, inplace=True),
    "leaky_relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "gelu_tanh": partial(nn.GELU, approximate="tanh"),
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "mish": nn.Mish,
    "softplus": nn.Softplus,
    "identity": nn.Identity,
}
"""Activations that may be used between linear layers, with torch's default parameters."""
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
HOW_TO_SAVE = 'save it with torch.save({"model_state_dict": model.state_dict()}, path)'
OBJECTS = {
    "numpy": "convert numpy values before saving: array.tolist() or float(number), torch.from_numpy(array) for weights",
    "sklearn": "save the numbers of the object, not the object: scaler.mean_.tolist(), scaler.scale_.tolist()",
}
"""What to do about objects in a checkpoint, by their package."""


class Layer(NamedTuple):
    """A linear layer, float32."""

    weight: torch.Tensor  # (outputs, inputs)
    bias: torch.Tensor | None  # (outputs,)


@dataclass(frozen=True)
class Checkpoint:
    layers: tuple[Layer, ...]
    """Layers in the order in which they run; each takes the output of the one before it."""
    names: tuple[str, ...]
    """Their names."""
    declared: Mapping[str, int]
    """The file's `input_dim`, `hidden_dim` and `output_dim`, if stated; they match the layers."""
    features: tuple[str, ...] | None
    classes: tuple[str, ...] | None
    version: str | None
    architecture: str | None
    """The architecture that the file names, known or not; text."""
    scaler: scalers.Scaler = field(default_factory=dict)
    """Values beside the weights that look like those of a scaler."""

    @property
    def inputs(self) -> int:
        return self.layers[0].weight.shape[1]

    @property
    def outputs(self) -> int:
        return self.layers[-1].weight.shape[0]

    @property
    def class_count(self) -> int:
        """Number of classes; a single output is the logit of the second of two classes."""
        return max(self.outputs, 2)


def read(path: Path) -> Checkpoint:
    """Reads a checkpoint file. Raises ModelRefused as `parse` does, and FileNotFoundError."""
    return parse(path.read_bytes(), path)


def parse(content: bytes, where: object, activation: str = "relu") -> Checkpoint:
    """Reads a checkpoint without running code from it.

    Raises ModelRefused if it is not a checkpoint, contains code, is not a stack of linear layers, contradicts the
    activation or its own `input_dim`, `hidden_dim` or `output_dim`, or has weights that are not finite.
    """
    document = _load(content, where)
    state = _state_dict(document, where)
    named = document.get("architecture", document.get("arch"))
    checkpoint = Checkpoint(
        layers=layers_of(state, where),
        names=tuple(dict.fromkeys(name.rpartition(".")[0] for name in state)),
        declared=_declared(document, where),
        features=_names(document, "feature_names") or _names(document, "features"),
        classes=_names(document, "classes"),
        version=_version(document),
        architecture=named[:200] if isinstance(named, str) else None,
    )
    check_declared(checkpoint.declared, checkpoint.layers, where)
    _check_activation(document, activation, where)
    return replace(checkpoint, scaler=scalers.in_document(_beside(document), checkpoint.inputs))


def build(checkpoint: Checkpoint, activation: str = "relu") -> nn.Sequential:
    """Returns the module in evaluation mode: (rows, inputs) to (rows, outputs)."""
    return stack(checkpoint.layers, activation)


def stack(layers: Sequence[Layer], activation: str) -> nn.Sequential:
    """Returns the linear layers as a module, with an activation between them."""
    modules: list[nn.Module] = []
    for weight, bias in layers:
        outputs, inputs = weight.shape
        linear = nn.Linear(inputs, outputs, bias=bias is not None, device="meta")  # no memory, no random numbers
        linear.weight = nn.Parameter(weight, requires_grad=False)
        if bias is not None:
            linear.bias = nn.Parameter(bias, requires_grad=False)
        modules += [linear, ACTIVATIONS[activation]()]
    return nn.Sequential(*modules[:-1]).eval()


def _load(content: bytes, where: object) -> Mapping[str, object]:
    document, damaged = None, None
    try:
        archive = zipfile.ZipFile(file) if zipfile.is_zipfile(file := io.BytesIO(content)) else None
        larger = archive is not None and is_larger_than_its_file(archive, len(content))
        if not larger:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about pickle protocols and TorchScript; bad content is refused below
                document = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            damaged = archive.testzip() if archive is not None else None  # torch.load checks no checksums
    except Exception as error:  # for other files torch raises anything: KeyError, EOFError, struct.error
        if code := re.search(r"GLOBAL (\S+)", str(error)):
            raise ModelRefused(
                "the checkpoint contains pickled code; it was not run",
                where=where,
                expected="tensors, text and numbers only",
                got=f"a reference to {code[1]}",
                next_step=OBJECTS.get(code[1].partition(".")[0], HOW_TO_SAVE),
            ) from None
        raise ModelRefused(
            "the file is not a checkpoint that can be loaded without running code",
            where=where,
            expected="a file written by torch.save, with tensors, text and numbers only",
            got=f"{type(error).__name__} from torch.load",
            next_step=HOW_TO_SAVE,
        ) from error
    if larger:
        raise ModelRefused(
            "the checkpoint declares more content than its file has",
            where=where,
            expected="records that are not compressed, as torch.save writes them",
            got=f"{len(content):,} bytes",
            next_step=HOW_TO_SAVE,
        )
    if damaged is not None:
        raise ModelRefused(
            "the checkpoint is damaged: a checksum does not match",
            where=where,
            got=damaged,
            next_step="copy it again from where it was trained",
        )
    if not isinstance(document, Mapping):
        raise _no_state_dict(f"a {type(document).__name__}", where)
    return document


def _state_dict(document: Mapping[str, object], where: object) -> dict[str, torch.Tensor]:
    """Returns the parameters by name, from `model_state_dict`, `state_dict` or the document itself."""
    key = next((key for key in WRAPPERS if key in document), None)
    candidate = document if key is None else document[key]
    if isinstance(candidate, Mapping):
        other_tensors.check_not_quantized(candidate, where)
    if not isinstance(candidate, Mapping) or not candidate:
        raise _no_state_dict(f"`{key}`, which is not a dictionary of tensors" if key else "an empty dictionary", where)
    state = {k: value for k, value in candidate.items() if isinstance(k, str) and isinstance(value, torch.Tensor)}
    if len(state) < len(candidate):
        others = ", ".join(f"`{name}`" for name in candidate if name not in state)
        raise _no_state_dict(f"{f'in `{key}`, ' if key else ''}{others} beside {len(state)} tensors", where)
    return state


def _beside(document: Mapping[str, object]) -> dict[str, object]:
    """Returns what the document has beside the weights; nothing if it is the state dict itself."""
    wrapped = [key for key in WRAPPERS if key in document]
    return {name: value for name, value in document.items() if name not in wrapped} if wrapped else {}


def _no_state_dict(got: str, where: object) -> ModelRefused:
    return ModelRefused(
        "the file contains no state dict",
        where=where,
        expected="a dictionary with `model_state_dict`, or a dictionary that contains only tensors",
        got=got,
        next_step=HOW_TO_SAVE,
    )


def layers_of(state: Mapping[str, torch.Tensor], where: object) -> tuple[Layer, ...]:
    """Returns the linear layers in the order of the state dict. Raises ModelRefused for any other layer."""
    groups: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in state.items():
        leaf = name.rpartition(".")[2]
        groups.setdefault(name.removesuffix(leaf), {})[leaf] = tensor
    foreign = {prefix: group for prefix, group in groups.items() if not _is_linear(group)}
    if foreign:
        first = next((group["weight"] for group in groups.values() if _is_linear(group)), None)
        raise other_tensors.refused(foreign, None if first is None else first.shape[1], where)
    for (name, above), (after, below) in pairwise(groups.items()):
        gives, takes = above["weight"].shape[0], below["weight"].shape[1]
        if gives != takes:
            raise ModelRefused(
                "the layers do not chain",
                where=where,
                expected="each layer takes the output of the one before it, in the order of the state dict",
                got=f"`{name}weight` outputs {gives} values, `{after}weight` takes {takes}",
                next_step="define the layers in the order in which they run; a network that branches has no such order",
            )
    values = {name: _values(name, tensor, where) for name, tensor in state.items()}
    return tuple(Layer(values[f"{prefix}weight"], values.get(f"{prefix}bias")) for prefix in groups)


def _is_linear(group: Mapping[str, torch.Tensor]) -> bool:
    weight, bias = group.get("weight"), group.get("bias")
    if weight is None or weight.ndim != 2 or len(group) > (1 if bias is None else 2):
        return False
    return bias is None or bias.shape == weight.shape[:1]


def _values(name: str, tensor: torch.Tensor, where: object) -> torch.Tensor:
    """Returns a parameter as contiguous float32. Raises ModelRefused unless it is a plain tensor of finite values."""
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and tensor.dtype in FLOATS
    # With a crafted stride of 0, a few bytes look like a tensor of any size.
    if not plain or not 0 < tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes():
        raise ModelRefused(
            f"parameter `{name}` is not a plain tensor of floating-point numbers",
            where=where,
            got=f"{tuple(tensor.shape)} {tensor.dtype}, {tensor.layout}, on {tensor.device}",
            next_step="move the model to the CPU, convert it with model.float(), and save it again",
        )
    values = tensor.detach().to(torch.float32).contiguous()
    if not bool(torch.isfinite(values).all()):
        raise ModelRefused(
            f"parameter `{name}` has weights that are not finite",
            where=where,
            expected="finite float32 numbers",
            got=f"{int((~torch.isfinite(values)).sum())} of {values.numel()} are NaN or infinite",
            next_step="the training diverged, or the file is damaged: choose an earlier checkpoint",
        )
    return values


def _declared(document: Mapping[str, object], where: object) -> dict[str, int]:
    declared = {}
    for key in DIMENSIONS:
        value = document.get(key)
        if isinstance(value, int):
            declared[key] = value
        elif value is not None:
            raise ModelRefused(f"`{key}` is not an integer", where=where, expected="a number of units", got=repr(value))
    return declared


def _check_activation(document: Mapping[str, object], expected: str, where: object) -> None:
    """Raises ModelRefused if the file names another activation; most files name none."""
    activation = document.get("activation")
    if isinstance(activation, str) and activation.rpartition(".")[2].lower() != expected:
        raise ModelRefused(
            "the checkpoint names another activation",
            where=where,
            expected=expected,
            got=activation,
            next_step=f"pass --architecture mlp:{activation.rpartition('.')[2].lower()}, if it is one of "
            + ", ".join(ACTIVATIONS),
        )


def check_declared(declared: Mapping[str, int], layers: Sequence[Layer], where: object) -> None:
    """Raises ModelRefused if a dimension stated in the file contradicts the weights."""
    hidden = [layer.weight.shape[0] for layer in layers[:-1]]
    actual = {
        "input_dim": [layers[0].weight.shape[1]],
        "hidden_dim": hidden,
        "output_dim": [layers[-1].weight.shape[0]],
    }
    for key, stated in declared.items():
        if stated not in actual[key]:
            shapes = ", ".join(f"{layer.weight.shape[1]} to {layer.weight.shape[0]}" for layer in layers)
            raise ModelRefused(
                f"the checkpoint states a `{key}` that contradicts its weights",
                where=where,
                expected=f"`{key}` {stated}, as stated",
                got=f"layers of {shapes}",
                next_step="save the checkpoint again with the dimensions of its model",
            )


def _names(document: Mapping[str, object], key: str) -> tuple[str, ...] | None:
    value = document.get(key)
    if isinstance(value, list | tuple) and value and all(isinstance(name, str) for name in value):
        return tuple(value)
    return None


def _version(document: Mapping[str, object]) -> str | None:
    value = document.get("version")
    if not isinstance(value, str | int | float):
        return None
    return str(value).encode(errors="replace").decode()[:200]  # untrusted text: make it encodable and short
