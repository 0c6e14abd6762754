"""The tensor operations that a graph in a model file may name. Anything else is refused before anything is run.

They compute, and nothing else: none opens a file (`aten::from_file`, `aten::save`), draws random numbers, or shows
memory that was not written (`aten::empty`).
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch

ATEN = "torch.ops.aten."
COMPOSITE = frozenset(
    # layers
    "linear bilinear matmul einsum inner outer ger mv dot bmm baddbmm addmv addr chain_matmul "
    "batch_norm layer_norm group_norm instance_norm rms_norm embedding_bag scaled_dot_product_attention "
    "conv1d conv2d max_pool1d avg_pool1d adaptive_avg_pool1d adaptive_max_pool1d gru lstm "
    "dropout alpha_dropout feature_dropout feature_alpha_dropout "
    # activations
    "silu mish hardswish hardsigmoid hardtanh softplus selu celu prelu relu6 glu log_sigmoid softmax log_softmax "
    "hardshrink softshrink threshold rrelu "
    # arithmetic
    "square rsub float_power floor_divide true_divide divide multiply subtract addcmul addcdiv lerp clamp clamp_min "
    "clamp_max clip nan_to_num isfinite isneginf isposinf isreal logsumexp logaddexp cumsum norm std var std_mean "
    "var_mean cosine_similarity pairwise_distance cdist linalg_vector_norm linalg_norm trapezoid erfinv exp2 sinc "
    "deg2rad hypot xlogy special_expit special_xlogy greater less greater_equal less_equal not_equal equal "
    "__and__ __or__ __xor__ max min maximum minimum mean sum prod all any amax amin argmax argmin topk sort "
    # shapes
    "reshape view_as reshape_as flatten unflatten transpose t swapaxes movedim squeeze unsqueeze narrow expand_as "
    "broadcast_to chunk split split_with_sizes tensor_split unbind stack hstack vstack column_stack concat concatenate "
    "tile repeat_interleave select slice index_select take_along_dim one_hot tril triu diagonal pad roll "
    "bucketize searchsorted masked_fill masked_select where "
    # kinds of tensor
    "to type_as contiguous clone detach alias lift_fresh_copy lift_fresh zeros ones full "
    "zeros_like ones_like full_like new_zeros new_ones new_full arange linspace eye scalar_tensor result_type".split()
)
"""Those of ATen that are not among its core operations, by name."""
IN_PLACE = frozenset(
    "relu_ relu6_ leaky_relu_ elu_ selu_ celu_ silu_ mish_ hardswish_ hardsigmoid_ hardtanh_ sigmoid_ tanh_ threshold_ "
    "dropout_ add_ sub_ mul_ div_ clamp_ clamp_min_ clamp_max_ exp_ sqrt_ square_ abs_ neg_ "
    "masked_fill_ detach_".split()
)
"""Those that write into what they are given."""
NOT_THESE = frozenset("empty empty_strided from_file".split())
RANDOM_UNLESS_OFF = frozenset(
    "dropout alpha_dropout feature_dropout feature_alpha_dropout dropout_ rrelu scaled_dot_product_attention".split()
)
"""Random only while training, and whoever exports that is refused by its argument."""
ASSERTIONS = frozenset(
    f"{ATEN}{name}"
    for name in ("_assert_tensor_metadata.default", "_assert_scalar.default", "sym_constrain_range_for_size.default")
)
"""What the exporter leaves behind; sizes are checked here in another way."""
ON_SIZES: dict[str, Callable[..., Any]] = {
    f"_operator.{name}": getattr(operator, name)
    for name in (
        "add",
        "sub",
        "mul",
        "floordiv",
        "truediv",
        "mod",
        "neg",
        "getitem",
        "eq",
        "ne",
        "lt",
        "le",
        "gt",
        "ge",
    )
}


def find(target: str) -> Callable[..., Any] | None:
    """Returns the operation that a node names, or None if it is not one of those allowed."""
    if target in ON_SIZES:
        return ON_SIZES[target]
    name, dot, overload = target.removeprefix(ATEN).partition(".")
    if not target.startswith(ATEN) or not dot or "." in overload or name in NOT_THESE:
        return None
    operation = getattr(getattr(torch.ops.aten, name, None), overload, None)
    if not isinstance(operation, torch._ops.OpOverload):  # noqa: SLF001 -- the class of what torch.ops gives
        return None
    if operation._schema.is_mutable:  # noqa: SLF001
        return operation if name in IN_PLACE else None
    if torch.Tag.nondeterministic_seeded in operation.tags:
        return operation if name in RANDOM_UNLESS_OFF else None
    return operation if name in COMPOSITE or torch.Tag.core in operation.tags else None
