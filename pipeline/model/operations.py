"""The tensor operations that a graph in a model file may name. Anything else is refused before anything is run.

The allowed operations only compute: none opens a file (`aten::from_file`, `aten::save`), draws random numbers, or
reads memory that is not its arguments' (`aten::empty`, `aten::lstm` with weights that are too small).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from pipeline.errors import ModelRefused

ATEN = "torch.ops.aten."
COMPOSITE = frozenset(
    # layers
    "linear bilinear matmul einsum inner outer ger mv dot bmm baddbmm addmv addr chain_matmul "
    "batch_norm layer_norm group_norm instance_norm rms_norm embedding_bag scaled_dot_product_attention "
    "conv1d conv2d max_pool1d avg_pool1d adaptive_avg_pool1d adaptive_max_pool1d _fused_rms_norm "
    "dropout alpha_dropout feature_dropout feature_alpha_dropout "
    # activations
    "silu mish hardswish hardsigmoid hardtanh softplus selu celu prelu relu6 glu log_sigmoid softmax log_softmax "
    "hardshrink softshrink threshold rrelu "
    # arithmetic
    "square rsub float_power floor_divide true_divide divide multiply subtract addcmul addcdiv lerp clamp clamp_min "
    "clamp_max clip nan_to_num isfinite isneginf isposinf isreal logsumexp logaddexp cumsum norm std var std_mean "
    "var_mean cosine_similarity pairwise_distance cdist linalg_vector_norm linalg_norm trapezoid erfinv exp2 sinc "
    "deg2rad hypot xlogy special_expit special_xlogy greater less greater_equal less_equal not_equal equal "
    "__and__ __or__ __xor__ __lshift__ __rshift__ bitwise_left_shift bitwise_right_shift "
    "max min maximum minimum mean sum prod all any amax amin argmax argmin topk sort "
    # shapes
    "reshape view_as reshape_as flatten unflatten transpose t swapaxes movedim squeeze unsqueeze narrow expand_as "
    "broadcast_to chunk split split_with_sizes tensor_split unbind stack hstack vstack column_stack concat concatenate "
    "tile repeat_interleave select slice index_select take_along_dim one_hot tril triu diagonal pad roll "
    "bucketize searchsorted masked_fill masked_select where "
    # kinds of tensor
    "to type_as contiguous clone detach alias lift_fresh_copy lift_fresh zeros ones full "
    "zeros_like ones_like full_like new_zeros new_ones new_full arange linspace eye scalar_tensor result_type "
    "tril_indices triu_indices "
    # fails for an index outside of a vocabulary; it has no result
    "_assert_async".split()
)
"""Allowed ATen operations that are not core operations, by name."""
IN_PLACE = frozenset(
    "relu_ relu6_ leaky_relu_ elu_ selu_ celu_ silu_ mish_ hardswish_ hardsigmoid_ hardtanh_ sigmoid_ tanh_ threshold_ "
    "dropout_ add_ sub_ mul_ div_ clamp_ clamp_min_ clamp_max_ exp_ sqrt_ square_ abs_ neg_ "
    "masked_fill_ detach_".split()
)
"""Allowed operations that write into their arguments."""
NOT_THESE = frozenset("empty empty_strided from_file".split())
RANDOM_UNLESS_OFF = frozenset(
    "dropout alpha_dropout feature_dropout feature_alpha_dropout dropout_ rrelu scaled_dot_product_attention".split()
)
"""Operations that are random only while training; `in_training` tells."""
LSTM = 4
GATES = {"gru": 3, "lstm": LSTM, "rnn_tanh": 1, "rnn_relu": 1}
"""Recurrent layers, random only while training, and how many matrices each stacks in a weight. Only their overload
`input` is allowed; `data`, for sequences of unequal lengths, takes the lengths from the file."""
ASSERTIONS = frozenset(
    f"{ATEN}{name}"
    for name in ("_assert_tensor_metadata.default", "_assert_scalar.default", "sym_constrain_range_for_size.default")
)
"""Assertions added by the exporter; they are skipped, because `program.py` checks sizes itself."""
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


def in_training(operation: Callable[..., Any], arguments: Sequence[Any], named: Mapping[str, Any]) -> bool:
    """Returns whether an operation is given what it needs in training only: it would be random, or mix rows.

    The names of the arguments are those of torch, not those in the file.
    """
    overload = operation.args[0] if isinstance(operation, partial) else operation
    if not isinstance(overload, torch._ops.OpOverload) or overload is torch.ops.aten._native_batch_norm_legit.no_stats:  # noqa: SLF001
        return False  # the second is an instance norm: its statistics are those of a row
    names = [argument.name for argument in overload._schema.arguments]  # noqa: SLF001
    given = {**dict(zip(names, arguments, strict=False)), **named}
    flags = [given[name] for name in ("train", "training") if name in given]
    return any(flag is not False for flag in flags) or given.get("dropout_p", 0) != 0


def _recurrent(
    operation: torch._ops.OpOverload[..., Any],
    rows: torch.Tensor,  # (rows, steps, values), or (steps, rows, values)
    state: torch.Tensor | list[torch.Tensor],  # each (layers * directions, rows, hidden)
    weights: list[torch.Tensor],
    *how: Any,
) -> Any:
    """Runs a recurrent layer after checking all shapes, since torch's LSTM reads beyond weights that are too small.

    Raises ModelRefused if a shape is not the one that the other arguments require.
    """
    biased, layers, _, _, both_ways, rows_first = how
    gates = GATES[operation._schema.name.removeprefix("aten::")]  # noqa: SLF001
    states = [state] if isinstance(state, torch.Tensor) else state
    directions = 2 if both_ways else 1
    hidden = states[0].shape[-1]
    of_state = (layers * directions, rows.shape[0 if rows_first else 1], hidden)
    expected: list[tuple[int, ...]] = [of_state] * (2 if gates == LSTM else 1)
    for layer in range(min(layers, len(weights))):
        values = rows.shape[2] if layer == 0 else hidden * directions
        biases = [(gates * hidden,)] * (2 if biased else 0)
        expected += [(gates * hidden, values), (gates * hidden, hidden), *biases] * directions
    found = [tuple(tensor.shape) for tensor in (*states, *weights)]
    if found != expected:
        raise ModelRefused(
            "the weights of a recurrent layer do not have the shapes that its input requires; it was not run",
            expected=expected,
            got=found,
            next_step="export it as torch.export.export(...).run_decompositions(), if it has projections (proj_size)",
        )
    return operation(rows, state, weights, *how)


def find(target: str) -> Callable[..., Any] | None:
    """Returns the operation that a node names, or None if it is not allowed."""
    if target in ON_SIZES:
        return ON_SIZES[target]
    name, dot, overload = target.removeprefix(ATEN).partition(".")
    if not target.startswith(ATEN) or not dot or "." in overload or name in NOT_THESE:
        return None
    operation = getattr(getattr(torch.ops.aten, name, None), overload, None)
    if not isinstance(operation, torch._ops.OpOverload):  # noqa: SLF001 -- the class of torch.ops entries
        return None
    if operation._schema.is_mutable:  # noqa: SLF001
        return operation if name in IN_PLACE else None
    if name in GATES:
        return partial(_recurrent, operation) if overload == "input" else None
    if torch.Tag.nondeterministic_seeded in operation.tags:
        allowed = name in RANDOM_UNLESS_OFF
    else:
        allowed = name in COMPOSITE or torch.Tag.core in operation.tags
    return operation if allowed else None
