"""What a file of weights does not say, the structure of the network, is asked, not guessed.

A state dict is names and tensors. A residual network, layers that run in another order than they are defined in, a last
softplus or an embedding can have the same names and shapes as a plain stack of linear layers, and other outputs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.errors import ModelRefused
from pipeline.model import golden, trial_rows

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import nn

    from pipeline.model.checkpoint import Layer
    from pipeline.model.manifest import Signature

GUESSED = "mlp:relu"
DIMENSIONS = ("input_dim", "hidden_dim", "output_dim")
NOT_A_STACK = re.compile(
    r"emb(ed|edding)?s?\d*(\.|_|$)|attn|attention|(^|[._])(query|key|value|gates?|skip|shortcut|residual|res|resnet|blocks?|"
    r"experts?|towers?|cross|decoder|tables?)\d*([._]|$)",
    re.IGNORECASE,
)
"""Names of layers that hardly belong to a plain stack."""
TELLING = ("relu", "tanh", "identity")
"""Activations whose outputs golden rows must tell apart, to confirm one of them."""
HOW_TO_ANSWER = (
    "best export the model with torch.export, which keeps its structure (models/README.md); or pass --golden with rows "
    "and the outputs that the training code computed for them; or, if these layers run in this order with nothing but "
    f"ReLU between them, --architecture {GUESSED}, or --assume-mlp to note it as assumed"
)


@dataclass(frozen=True)
class Weights:
    """What is known of a file that has only weights."""

    layers: tuple[Layer, ...]
    names: tuple[str, ...]
    """Names of the layers, in the order in which they are run."""
    architecture: str
    """The architecture that they are run with, such as `mlp:tanh`."""
    named_by: str | None
    """Who names the architecture, in words; None if nobody does."""
    dimensions: tuple[str, ...] = ()
    """Which of `DIMENSIONS` the file states."""
    unknown: str | None = None
    """The architecture that the file names, if Lakescore does not know it."""

    @property
    def described(self) -> str:
        """The layers in words."""
        shapes = [layer.weight.shape for layer in self.layers]
        return ", ".join(
            f"{name} {shape[1]} to {shape[0]}".strip() for name, shape in zip(self.names, shapes, strict=True)
        )

    @property
    def doubts(self) -> list[str]:
        """What in the file speaks against a plain stack in this order."""
        found = [f"the file names the architecture {self.unknown!r}"] if self.unknown else []
        if odd := [name for name in self.names if NOT_A_STACK.search(name)]:
            found.append(f"the name {odd[0]!r} is not that of a layer in a plain stack")
        if not _ascending(self.names):
            found.append("the numbers in the names of the layers are in another order")
        return found

    @property
    def dimensions_stated(self) -> bool:
        needed = DIMENSIONS if len(self.layers) > 1 else (DIMENSIONS[0], DIMENSIONS[-1])
        return set(needed) <= set(self.dimensions)


def settle(
    weights: Weights,
    module: nn.Module,
    signature: Signature,
    examples: pa.Table | None,
    where: object,
    *,
    assume_mlp: bool,
) -> str:
    """Returns how the structure of a model is known, for people. The model must reproduce the outputs in `examples`.

    Raises ModelRefused if it is not known.
    """
    proven = examples is not None and _has_outputs(examples, signature)
    if weights.named_by is not None:
        return f"{weights.architecture}, as {weights.named_by}"
    alike = _alike(weights, module, signature, examples) if examples is not None and proven else []
    if proven and not alike:
        return f"{weights.architecture}, which reproduces the outputs in the golden batch: {weights.described}"
    if assume_mlp:
        return f"assumed to be {weights.architecture}, by --assume-mlp: {weights.described}"
    doubts = weights.doubts
    if weights.dimensions_stated and not doubts:
        return f"assumed to be {weights.architecture}, since the file states its dimensions only: {weights.described}"
    if alike:
        doubts.append(f"the golden rows do not tell it from {' and '.join(alike)}")
    raise ModelRefused(
        "a state dict has no structure, and nothing else says which network these weights belong to",
        where=where,
        expected="an architecture, the outputs of the training code, or a file that states "
        + ", ".join(f"`{name}`" for name in DIMENSIONS),
        got="; ".join([f"layers {weights.described}", *doubts]),
        next_step=HOW_TO_ANSWER,
    )


def _ascending(names: Sequence[str]) -> bool:
    """Returns whether names that differ only in their numbers have these in ascending order."""
    last: dict[str, list[int]] = {}
    for name in names:
        pattern, numbers = re.sub(r"\d+", "#", name), [int(digits) for digits in re.findall(r"\d+", name)]
        if pattern in last and numbers < last[pattern]:
            return False
        last[pattern] = numbers
    return True


def _has_outputs(examples: pa.Table, signature: Signature) -> bool:
    """Returns whether the examples have all outputs; one of the probabilities, which sum to one, may be missing."""
    from pipeline.model.baseline import scores
    from pipeline.model.outputs import output_schema

    if signature.task == "ranking":
        names = scores(signature)
    else:
        names = [name for name in output_schema(signature).names if name not in ("prediction", "prediction_proba")]
    missing = [name for name in names if name not in examples.column_names]
    return len(missing) <= (1 if signature.task == "classification" else 0)


def _alike(weights: Weights, module: nn.Module, signature: Signature, examples: pa.Table) -> list[str]:
    """Returns the other structures that reproduce the outputs in the examples, too: these rows prove nothing then."""
    from torch import nn

    from pipeline.model.checkpoint import stack

    others: dict[str, nn.Module] = {"a last softplus": nn.Sequential(module, nn.Softplus())}
    if len(weights.layers) > 1:
        named = {f"mlp:{activation}": activation for activation in TELLING}
        others |= {name: stack(weights.layers, named[name]) for name in named if name != weights.architecture}
    return [name for name, other in others.items() if _reproduces(other, signature, examples)]


def _reproduces(module: nn.Module, signature: Signature, examples: pa.Table) -> bool:
    from pipeline.model.predictor import Predictor

    batch = examples.select(list(signature.features)).combine_chunks().to_batches()[0]
    predictor = Predictor(module, signature, "cpu")
    found = predictor.predict(trial_rows.matrix_of(batch, signature), batch.num_rows)
    differences = golden.differences(examples, found)
    return differences is not None and golden.agree(differences, predictor)
