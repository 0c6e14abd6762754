"""Checkpoints: a state dict saved with `torch.save`, rebuilt as linear layers with an activation between.

A state dict holds no structure, so it is read off the shapes: each two-dimensional `weight` is a linear layer, in the
order of the state dict. What is anything else is refused, for a guess would give scores that look right and are not.
"""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from pipeline.errors import ModelRefused

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
"""What may stand between linear layers, with torch's default parameters."""
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
HOW_TO_SAVE = 'save it with torch.save({"model_state_dict": model.state_dict()}, path)'
HOW_TO_REPLACE = (
    "fold BatchNorm into the layer before it (torch.nn.utils.fuse_linear_bn_eval) or train without it; "
    "a model of other layers cannot be registered as a state dict"
)


class Layer(NamedTuple):
    """A linear layer, float32."""

    weight: torch.Tensor  # (outputs, inputs)
    bias: torch.Tensor | None  # (outputs,)


@dataclass(frozen=True)
class Checkpoint:
    layers: tuple[Layer, ...]
    """In the order in which they run; each takes what the one before it gives."""
    declared: Mapping[str, int]
    """Those of `input_dim`, `hidden_dim` and `output_dim` that the file states; they agree with the layers."""
    features: tuple[str, ...] | None
    classes: tuple[str, ...] | None
    version: str | None

    @property
    def inputs(self) -> int:
        return self.layers[0].weight.shape[1]

    @property
    def outputs(self) -> int:
        return self.layers[-1].weight.shape[0]

    @property
    def class_count(self) -> int:
        """A single output is the logit of the second of two classes."""
        return max(self.outputs, 2)


def read(path: Path) -> Checkpoint:
    """Raises ModelRefused as `parse` does, and FileNotFoundError."""
    return parse(path.read_bytes(), path)


def parse(content: bytes, where: object, activation: str = "relu") -> Checkpoint:
    """Reads a checkpoint without running code from it.

    Raises ModelRefused if it is not one, carries code, is not a stack of linear layers, contradicts the activation or
    its own `input_dim`, `hidden_dim` or `output_dim`, or has weights that are not finite.
    """
    document = _load(content, where)
    layers = layers_of(_state_dict(document, where), where)
    checkpoint = Checkpoint(
        layers=layers,
        declared=_declared(document, where),
        features=_names(document, "feature_names") or _names(document, "features"),
        classes=_names(document, "classes"),
        version=_version(document),
    )
    _check_declared(checkpoint, where)
    _check_activation(document, activation, where)
    return checkpoint


def build(checkpoint: Checkpoint, activation: str = "relu") -> nn.Sequential:
    """Returns the module that gives the model's outputs, ready to score: (rows, inputs) to (rows, outputs)."""
    return stack(checkpoint.layers, activation)


def stack(layers: Sequence[Layer], activation: str) -> nn.Sequential:
    """Returns linear layers as a module, with an activation between."""
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
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols and TorchScript: what matters is refused below
            document = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        damaged = _damaged(content)
    except Exception as error:  # what is no checkpoint makes torch raise anything: KeyError, EOFError, struct.error
        if code := re.search(r"GLOBAL (\S+)", str(error)):
            raise ModelRefused(
                "the checkpoint carries pickled code; it was not run",
                where=where,
                expected="tensors, text and numbers only",
                got=f"a reference to {code[1]}",
                next_step=HOW_TO_SAVE,
            ) from None
        raise ModelRefused(
            "the file is not a checkpoint that can be loaded without running code",
            where=where,
            expected="a file written by torch.save, with tensors, text and numbers only",
            got=f"{type(error).__name__} from torch.load",
            next_step=HOW_TO_SAVE,
        ) from error
    if damaged is not None:
        raise ModelRefused(
            "the checkpoint is damaged: a checksum in it differs",
            where=where,
            got=damaged,
            next_step="copy it again from where it was trained",
        )
    if not isinstance(document, Mapping):
        raise _no_state_dict(f"a {type(document).__name__}", where)
    return document


def _damaged(content: bytes) -> str | None:
    """Returns the first record of the archive whose checksum differs: torch.load does not look at them."""
    file = io.BytesIO(content)
    return zipfile.ZipFile(file).testzip() if zipfile.is_zipfile(file) else None


def _state_dict(document: Mapping[str, object], where: object) -> dict[str, torch.Tensor]:
    """Returns the parameters by name: under `model_state_dict` or `state_dict`, or the document itself."""
    key = next((key for key in WRAPPERS if key in document), None)
    candidate = document if key is None else document[key]
    if not isinstance(candidate, Mapping) or not candidate:
        raise _no_state_dict(f"`{key}`, which is no dictionary of tensors" if key else "an empty dictionary", where)
    state = {k: value for k, value in candidate.items() if isinstance(k, str) and isinstance(value, torch.Tensor)}
    if len(state) < len(candidate):
        others = ", ".join(f"`{name}`" for name in candidate if name not in state)
        raise _no_state_dict(f"{f'in `{key}`, ' if key else ''}{others} beside {len(state)} tensors", where)
    return state


def _no_state_dict(got: str, where: object) -> ModelRefused:
    return ModelRefused(
        "the file holds no state dict",
        where=where,
        expected="a dictionary with `model_state_dict`, or a dictionary of nothing but tensors",
        got=got,
        next_step=HOW_TO_SAVE,
    )


def layers_of(state: Mapping[str, torch.Tensor], where: object) -> tuple[Layer, ...]:
    """Returns the linear layers in the order of the state dict. Raises ModelRefused for any other layer."""
    groups: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in state.items():
        leaf = name.rpartition(".")[2]
        groups.setdefault(name.removesuffix(leaf), {})[leaf] = tensor
    foreign = [prefix + leaf for prefix, group in groups.items() if not _is_linear(group) for leaf in group]
    if foreign:
        raise ModelRefused(
            "only linear layers with ReLU between can be rebuilt from a state dict",
            where=where,
            expected="for each layer `<name>.weight` (outputs, inputs) and, if it has one, `<name>.bias` (outputs,)",
            got=", ".join(f"`{name}` {tuple(state[name].shape)}" for name in foreign),
            next_step=HOW_TO_REPLACE,
        )
    for (name, above), (after, below) in pairwise(groups.items()):
        gives, takes = above["weight"].shape[0], below["weight"].shape[1]
        if gives != takes:
            raise ModelRefused(
                "the layers do not chain",
                where=where,
                expected="each layer takes what the one before it gives, in the order of the state dict",
                got=f"`{name}weight` gives {gives} values, `{after}weight` takes {takes}",
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
    """Returns a parameter as float32 of its own. Raises ModelRefused if it has no values, or such as are no numbers."""
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and tensor.dtype in FLOATS
    # A crafted stride of 0 makes a few bytes look like a tensor of any size.
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
            raise ModelRefused(f"`{key}` is not a number of units", where=where, expected="an integer", got=repr(value))
    return declared


def _check_activation(document: Mapping[str, object], expected: str, where: object) -> None:
    """Raises ModelRefused if the file names another activation; most name none."""
    activation = document.get("activation")
    if isinstance(activation, str) and activation.rpartition(".")[2].lower() != expected:
        raise ModelRefused(
            "the checkpoint names another activation between its layers",
            where=where,
            expected=expected,
            got=activation,
            next_step=f"pass --architecture mlp:{activation.rpartition('.')[2].lower()}, if it is one of "
            + ", ".join(ACTIVATIONS),
        )


def _check_declared(checkpoint: Checkpoint, where: object) -> None:
    """Raises ModelRefused if the file says one thing and its weights another."""
    hidden = [layer.weight.shape[0] for layer in checkpoint.layers[:-1]]
    actual = {"input_dim": [checkpoint.inputs], "hidden_dim": hidden, "output_dim": [checkpoint.outputs]}
    for key, declared in checkpoint.declared.items():
        if declared not in actual[key]:
            shapes = ", ".join(f"{layer.weight.shape[1]} to {layer.weight.shape[0]}" for layer in checkpoint.layers)
            raise ModelRefused(
                f"the checkpoint states a `{key}` that its weights contradict",
                where=where,
                expected=f"`{key}` {declared}, as stated",
                got=f"layers of {shapes}",
                next_step="save the checkpoint again with the dimensions of the model that it holds",
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
    return str(value).encode(errors="replace").decode()[:200]  # a stranger's text: it must at least be storable
