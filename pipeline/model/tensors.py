"""Reads safetensors: bare weights and text metadata. The metadata or the caller names the architecture."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pipeline.errors import ModelRefused
from pipeline.model.architectures import from_weights

HOW_TO_SAVE = 'safetensors.torch.save_file(model.state_dict(), path, metadata={"architecture": "mlp:relu"})'
MOST_HEADER = 100_000_000


@dataclass(frozen=True)
class Weights:
    tensors: dict[str, torch.Tensor]
    """Tensors by name, in the order in which the layers run."""
    metadata: dict[str, str]


def names_in(metadata: Mapping[str, str], key: str) -> tuple[str, ...] | None:
    """Returns a list from the metadata: JSON, or comma-separated text. None if the key is absent."""
    if (text := metadata.get(key)) is None:
        return None
    try:
        found = json.loads(text)
    except ValueError:
        found = text.split(",")
    return tuple(str(name).strip() for name in found) if isinstance(found, list) else (text,)


def looks_like_one(content: bytes) -> bool:
    size = int.from_bytes(content[:8], "little")
    return len(content) > 8 and 2 <= size <= min(len(content) - 8, MOST_HEADER) and content[8:9] == b"{"


def parse(content: bytes, where: object) -> Weights:
    """Parses a safetensors file. Raises ModelRefused if it is damaged, or the order of its layers is unknown."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        header: dict[str, Any] = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        tensors = load(content)
    except (SafetensorError, ValueError, RecursionError, KeyError) as error:
        raise ModelRefused(
            "the file is not a valid safetensors file",
            where=where,
            got=str(error).splitlines()[0][:200],
            next_step=f"write it again: {HOW_TO_SAVE}",
        ) from None
    metadata = {str(key): str(value) for key, value in (header.get("__metadata__") or {}).items()}
    return Weights(_ordered(tensors, names_in(metadata, "layers"), where), metadata)


def build(weights: Weights, architecture: str, where: object) -> nn.Module:
    """Returns the module. Raises ModelRefused if the file names another architecture or its weights do not match it."""
    named = weights.metadata.get("architecture")
    if named is not None and named != architecture:
        raise ModelRefused(
            "the file names another architecture",
            where=where,
            expected=architecture,
            got=named,
            next_step="leave --architecture out, or " + HOW_TO_SAVE,
        )
    return from_weights(weights.tensors, architecture, where)


def check_order(weights: Weights, where: object) -> None:
    """Raises ModelRefused if the layers of a file that is being registered could run in more than one order.

    Files registered earlier are read in the order in which they have been read since.
    """
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in weights.tensors))
    numbered = [layer for layer in layers if re.search(r"\d", layer)]
    alike = len({re.sub(r"\d+", "#", layer) for layer in numbered}) <= 1
    single = [layer for layer in layers if layer not in numbered]
    widths = {size for layer in (layers[0], *single) for size in weights.tensors[f"{layer}.weight".lstrip(".")].shape}
    either_end = bool(single and numbered) and len(widths) == 1
    if "layers" not in weights.metadata and (not alike or either_end):
        raise _order_unknown(layers, where)


def _ordered(tensors: dict[str, torch.Tensor], listed: Sequence[str] | None, where: object) -> dict[str, torch.Tensor]:
    """Returns the tensors in the order in which the layers run, which safetensors files do not keep.

    The order is that of `layers` in the metadata, or else of the numbers in the layer names, with at most one layer
    without a number, which comes last.
    """
    layers = sorted({name.rpartition(".")[0] for name in tensors})
    if listed is None:
        numbers = {layer: [int(digits) for digits in re.findall(r"\d+", layer)] for layer in layers}
        listed = sorted(layers, key=lambda layer: (not numbers[layer], numbers[layer], layer))
        order_known = len([layer for layer in layers if not numbers[layer]]) <= 1
    else:
        order_known = set(listed) == set(layers)
    if not order_known:
        raise _order_unknown(layers, where)
    return {name: tensors[name] for layer in listed for name in sorted(tensors) if name.rpartition(".")[0] == layer}


def _order_unknown(layers: Sequence[str], where: object) -> ModelRefused:
    return ModelRefused(
        "the order of the layers is unknown",
        where=where,
        expected="numbers in their names, such as fc1 and fc2, or the metadata's `layers`: a JSON list",
        got=", ".join(layers),
        next_step='save it with metadata={"layers": json.dumps(["first", "second", ...]), ...}',
    )
