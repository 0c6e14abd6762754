"""safetensors: bare weights, and metadata of text. Of what they are the weights, the metadata or the caller says."""

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
    """By name, in the order in which the layers run."""
    metadata: dict[str, str]


def names_in(metadata: Mapping[str, str], key: str) -> tuple[str, ...] | None:
    """Returns a list from the metadata: JSON, or text with commas."""
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
    """Raises ModelRefused for a file that is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        header: dict[str, Any] = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        tensors = load(content)
    except (SafetensorError, ValueError, RecursionError, KeyError) as error:
        raise ModelRefused(
            "the file is not one of safetensors",
            where=where,
            got=str(error).splitlines()[0][:200],
            next_step=f"write it again: {HOW_TO_SAVE}",
        ) from None
    metadata = {str(key): str(value) for key, value in (header.get("__metadata__") or {}).items()}
    return Weights(_ordered(tensors, names_in(metadata, "layers"), where), metadata)


def build(weights: Weights, architecture: str | None, where: object) -> tuple[nn.Module, str]:
    """Returns the module and its architecture. Raises ModelRefused if none is named, or it has other weights."""
    named = weights.metadata.get("architecture")
    if (architecture or named) is None or (architecture and named and architecture != named):
        raise ModelRefused(
            "safetensors hold weights, and no word of how they are used"
            if named is None
            else "the file names another architecture",
            where=where,
            expected="an architecture with its activation, such as mlp:relu",
            got=named or "none in the metadata",
            next_step="pass --architecture mlp:relu, if that is what was trained, or " + HOW_TO_SAVE,
        )
    chosen = architecture or named
    assert chosen is not None
    return from_weights(weights.tensors, chosen, where), chosen


def _ordered(tensors: dict[str, torch.Tensor], listed: Sequence[str] | None, where: object) -> dict[str, torch.Tensor]:
    """Returns the tensors in the order in which the layers run, which safetensors do not keep.

    That is the order of the metadata's `layers`, or of the numbers in their names, one without a number last.
    """
    layers = sorted({name.rpartition(".")[0] for name in tensors})
    if listed is None:
        numbers = {layer: [int(digits) for digits in re.findall(r"\d+", layer)] for layer in layers}
        listed = sorted(layers, key=lambda layer: (not numbers[layer], numbers[layer], layer))
        told = len([layer for layer in layers if not numbers[layer]]) <= 1
    else:
        told = set(listed) == set(layers)
    if not told:
        raise ModelRefused(
            "nothing says in which order the layers run",
            where=where,
            expected="numbers in their names, such as fc1 and fc2, or the metadata's `layers`: a JSON list",
            got=", ".join(layers),
            next_step='save it with metadata={"layers": json.dumps(["first", "second", ...]), ...}',
        )
    return {name: tensors[name] for layer in listed for name in sorted(tensors) if name.rpartition(".")[0] == layer}
