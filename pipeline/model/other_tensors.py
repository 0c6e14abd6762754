"""What a checkpoint holds beside linear layers: parameters of other layers, and values that the model was trained with.

Each is told by its name and shape, to say what can be done about it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch

from pipeline.errors import ModelRefused

Group = Mapping[str, torch.Tensor]
"""The tensors of one layer, by the last part of their names."""

EXPORT = (
    'export the model with torch.export, which keeps all layers: see models/README.md, "Any architecture: a program"'
)
LOSS = re.compile(r"(^|[._])(criterion|loss|loss_fn|loss_func|objective)\.$")
SCALER = re.compile(
    r"(^|[._])(scaler|scaling|scale|mean|means|mu|std|stds|stdev|sigma|var|variance|min|max|minimum|maximum|data_min|"
    r"data_max|center|centre|offset|median|iqr|normali[sz]er|normali[sz]ation|standardi[sz]er|standardi[sz]ation)_?($|[._])",
    re.IGNORECASE,
)
"""Names of the values of a scaler: `mean`, `x_std`, `scaler.scale_`, `feature_min`."""
INTEGERS = frozenset({torch.int8, torch.uint8, torch.qint8, torch.quint8, torch.qint32})
QUANTIZED = re.compile(r"(^|[._])(_packed_params|zero_point|qweight|qzeros|SCB|weight_format)([._]|$)")


class Kind(NamedTuple):
    name: str
    next_step: str


QUANTIZED_WEIGHTS = Kind(
    "weights of a quantized model (int8)",
    'save the state dict of the model before it was quantized; to score faster, set precision = "bfloat16" in the '
    "job's [engine]",
)
OF_LOSS = Kind(
    "part of the loss, which scoring does not need",
    "save the state dict without it: {{k: v for k, v in model.state_dict().items() if k not in {names}}}",
)
OF_SCALER = Kind(
    "values of a scaler; a state dict does not say how the model uses them",
    "export the model, with the scaling in its forward(), with torch.export; or save them beside the state dict, as "
    "lists of numbers, and pass --scaling checkpoint",
)
BATCH_NORM = Kind(
    "BatchNorm",
    "fold it into the layer before it (torch.nn.utils.fuse_linear_bn_eval), or " + EXPORT,
)
NORM = Kind("LayerNorm, GroupNorm or RMSNorm, which cannot be folded into another layer", EXPORT)
PRELU = Kind("PReLU", EXPORT)
CONVOLUTION = Kind("a convolution", EXPORT)
RECURRENT = Kind("a recurrent layer (RNN, GRU or LSTM)", EXPORT)
ATTENTION = Kind("attention", EXPORT)
PARAMETRIZED = Kind(
    "a parametrized layer, such as weight_norm",
    'call torch.nn.utils.parametrize.remove_parametrizations(layer, "weight") before saving, or ' + EXPORT,
)
OTHER = Kind("parameters that are no linear layer", EXPORT)


def refused(groups: Mapping[str, Group], inputs: int | None, where: object) -> ModelRefused:
    """Returns the error for layers that are not linear, by the prefix of their names.

    `inputs` is the number of columns that the model takes, if it has a linear layer.
    """
    kinds = {_kind(prefix, group, inputs) for prefix, group in groups.items()}
    if PARAMETRIZED in kinds:
        kinds -= {OTHER}  # its bias
    different = sorted(kinds, key=lambda kind: kind.name)
    tensors = {prefix + leaf: tensor for prefix, group in groups.items() for leaf, tensor in group.items()}
    shapes = ", ".join(f"`{name}` {tuple(tensor.shape)}" for name, tensor in tensors.items())
    return ModelRefused(
        "only linear layers with activations between them can be rebuilt from a state dict",
        where=where,
        expected="for each layer `<name>.weight` (outputs, inputs) and, if it has one, `<name>.bias` (outputs,)",
        got=f"{' and '.join(kind.name for kind in different)}: {shapes}",
        next_step=different[0].next_step.format(names=set(tensors)) if len(different) == 1 else EXPORT,
    )


def check_not_quantized(state: Mapping[str, object], where: object) -> None:
    """Raises ModelRefused for a state dict of integer weights. Its values may be of any type."""
    packed = [name for name in map(str, state) if QUANTIZED.search(name)]
    weights = (
        value for name, value in state.items() if isinstance(value, torch.Tensor) and str(name).endswith("weight")
    )
    kinds = sorted({str(weight.dtype) for weight in weights if weight.dtype in INTEGERS})
    if not packed and not kinds:
        return
    raise ModelRefused(
        f"the checkpoint has {QUANTIZED_WEIGHTS.name}",
        where=where,
        expected="floating-point weights",
        got=", ".join([*kinds, *(f"`{name}`" for name in packed)])[:300],
        next_step=QUANTIZED_WEIGHTS.next_step,
    )


def _kind(prefix: str, group: Group, inputs: int | None) -> Kind:  # noqa: PLR0911 -- one for each kind
    weight = group.get("weight")
    if "pos_weight" in group or LOSS.search(prefix):
        return OF_LOSS
    if "running_mean" in group:
        return BATCH_NORM
    if "parametrizations." in prefix or {"weight_g", "weight_v"} & set(group):
        return PARAMETRIZED
    if any(leaf.startswith(("weight_ih", "weight_hh")) for leaf in group):
        return RECURRENT
    if any(leaf.startswith(("in_proj", "q_proj", "k_proj")) for leaf in group):
        return ATTENTION
    if weight is None and all(SCALER.search(prefix + leaf) for leaf in group):
        sizes = {tensor.numel() for tensor in group.values()}
        return OF_SCALER if inputs is None or sizes <= {1, inputs} else OTHER
    if weight is not None and weight.ndim > 2:
        return CONVOLUTION
    if weight is not None and weight.ndim == 1:
        return PRELU if "bias" not in group and weight.numel() == 1 else NORM
    return OTHER
