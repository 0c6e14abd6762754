"""What the last operation of a model says about its outputs, before a single row is scored.

A softmax gives probabilities whatever the weights are; the index of the largest output is a class. Operations that only
copy, cast or reshape are followed back to the one before them. Where the ending says nothing, the outputs have to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol

from torch import nn

from pipeline.model.feeding import Fed

Values = Literal["probabilities", "log_probabilities", "linear", "classes", "unknown"]


@dataclass(frozen=True)
class Ending:
    values: Values
    """What each output is; `linear` is the result of a linear layer, which has no bounds."""
    last: str
    """The operation, as named in messages."""
    normalized: bool = False
    """Whether the outputs of a row are all those of a softmax, so that their probabilities sum to one."""
    column: int | None = None
    """Which output of a softmax the only output is, if the program says so."""


NOTHING = Ending("unknown", "an input or a weight")
LAYERS: dict[type[nn.Module], Ending] = {
    nn.Linear: Ending("linear", "a linear layer"),
    nn.Sigmoid: Ending("probabilities", "sigmoid"),
    nn.LogSigmoid: Ending("log_probabilities", "log_sigmoid"),
    nn.Softmax: Ending("probabilities", "softmax", normalized=True),
    nn.LogSoftmax: Ending("log_probabilities", "log_softmax", normalized=True),
}


def of_module(module: nn.Module) -> Ending:
    """Returns the ending of a program, or of a plain sequence of torch's layers; `unknown` for any other code."""
    last = module.inner if isinstance(module, Fed) else module
    if isinstance(found := getattr(last, "ending", None), Ending):
        return found
    while type(last) is nn.Sequential and len(last):
        last = last[-1]
    unknown = Ending("unknown", type(last).__name__)
    return LAYERS.get(type(last), unknown) if getattr(last, "dim", 1) in (1, -1) else unknown


class Step(Protocol):
    """A step of a program: see `program.Step`."""

    @property
    def operation(self) -> Callable[..., Any]: ...
    @property
    def arguments(self) -> tuple[Any, ...]: ...
    @property
    def named(self) -> Mapping[str, Any]: ...
    @property
    def results(self) -> tuple[str | tuple[str, ...], ...]: ...


class _Value(NamedTuple):
    """A value in a graph."""

    step: Step
    """The step that computes it."""
    position: int
    """Which of the step's results it is."""
    endings: Mapping[object, Ending]
    """Those of the values before it, by name."""

    @property
    def operation(self) -> str:
        """The name of an ATen operation without its overload, such as `softmax`."""
        named = getattr(self.step.operation, "name", None)
        text = named() if named is not None else getattr(self.step.operation, "__name__", "")
        return str(text).removeprefix("aten::").partition(".")[0]

    @property
    def given(self) -> list[Any]:
        """The arguments of the step, with references as names."""
        return [getattr(each, "name", each) for each in self.step.arguments]

    def before(self, index: int = 0) -> Ending:
        """Returns the ending of an argument of the step."""
        return self.endings.get(self.given[index], NOTHING)


def of_steps(steps: Sequence[Step], output: str, rank: int) -> Ending:
    """Returns the ending of a program, whose output has `rank` dimensions, the first of which is the rows."""
    endings: dict[object, Ending] = {}
    for step in steps:
        for position, names in enumerate(step.results):
            for place, name in [(position, names)] if isinstance(names, str) else enumerate(names):
                value = _Value(step, place, endings)
                rule = RULES.get(value.operation)
                endings[name] = (rule(value) if rule else None) or Ending("unknown", value.operation.strip("_"))
    found = endings.get(output, NOTHING)
    return Ending("unknown", f"{found.last} over the rows") if found.normalized and rank != 2 else found


def _same(value: _Value) -> Ending:
    return value.before()


def _reshaped(value: _Value) -> Ending:
    return replace(value.before(), normalized=False)


def _cut(value: _Value) -> Ending:
    """The operation takes a value, a dimension, and the first index."""
    _, dimension, index, *_ = (*value.given, None, None)
    whole = _reshaped(value)
    return replace(whole, column=index) if dimension in (1, -1) else whole


def _split(value: _Value) -> Ending:
    """The operation's last argument is the dimension."""
    whole = _reshaped(value)
    return replace(whole, column=value.position) if value.given[-1] in (1, -1) else whole


def _class(value: _Value) -> Ending | None:
    return None if "decimals" in value.step.named else Ending("classes", value.operation)


def _index(value: _Value) -> Ending | None:
    """The operation's second result is the index of a value."""
    return Ending("classes", f"the index of {value.operation}") if value.position == 1 else None


def _softmax(value: _Value) -> Ending:
    name = value.operation.strip("_").removeprefix("safe_")
    dimension = value.given[1] if len(value.given) > 1 else value.step.named.get("dim")
    if dimension not in (1, -1):
        return Ending("unknown", f"{name} over dimension {dimension}")
    return Ending("log_probabilities" if name == "log_softmax" else "probabilities", name, normalized=True)


def _logarithm(value: _Value) -> Ending | None:
    inner = value.before()
    if inner.values != "probabilities":
        return None
    return replace(inner, values="log_probabilities", last=f"the logarithm of {inner.last}")


def _exponential(value: _Value) -> Ending | None:
    inner = value.before()
    if inner.values != "log_probabilities":
        return None
    return replace(inner, values="probabilities", last=f"exp of {inner.last}")


def _sum(value: _Value) -> Ending | None:
    both = value.before(0).values == value.before(1).values == "linear"
    return Ending("linear", "a sum of linear layers") if both else None


def _joined(value: _Value) -> Ending | None:
    """Outputs that are joined have one meaning if all of them have it, such as a sigmoid of each of several towers."""
    parts = value.given[0] if isinstance(value.given[0], list) else []
    endings = [value.endings.get(getattr(part, "name", None), NOTHING) for part in parts]
    if not endings or len({ending.values for ending in endings}) > 1:
        return None
    return replace(endings[0], normalized=False, column=None)


def _clamped(value: _Value) -> Ending | None:
    """Probabilities stay such only if the bounds lie between 0 and 1."""
    inner, bounds = value.before(), value.given[1:]
    inside = len(bounds) == 2 and all(isinstance(each, int | float) and 0 <= each <= 1 for each in bounds)
    return replace(inner, normalized=False) if inside and inner.values == "probabilities" else None


def _rules(names: str, rule: Callable[[_Value], Ending | None]) -> dict[str, Callable[[_Value], Ending | None]]:
    return dict.fromkeys(names.split(), rule)


RULES = (
    _rules("to _to_copy type_as clone contiguous detach detach_ alias lift_fresh lift_fresh_copy", _same)
    | _rules("dropout alpha_dropout feature_dropout feature_alpha_dropout dropout_", _same)
    | _rules("view reshape view_as reshape_as _unsafe_view flatten squeeze unsqueeze", _reshaped)
    | _rules("select slice narrow", _cut)
    | _rules("unbind split chunk split_with_sizes tensor_split", _split)
    | _rules("argmax argmin one_hot round floor ceil trunc sign heaviside bucketize searchsorted", _class)
    | _rules("gt ge lt le eq ne greater greater_equal less less_equal not_equal", _class)
    | _rules("logical_and logical_or logical_not", _class)
    | _rules("max min topk sort", _index)
    | _rules("cat concat concatenate stack hstack column_stack", _joined)
    | _rules("softmax _softmax _safe_softmax log_softmax _log_softmax", _softmax)
    | _rules("sigmoid sigmoid_ special_expit", lambda _value: LAYERS[nn.Sigmoid])
    | _rules("log_sigmoid log_sigmoid_forward", lambda _value: LAYERS[nn.LogSigmoid])
    | _rules("linear addmm mm", lambda _value: LAYERS[nn.Linear])
    | _rules("log", _logarithm)
    | _rules("exp", _exponential)
    | _rules("add sub", _sum)
    | _rules("clamp clip", _clamped)
)
"""What each operation says about its result, by the operation's name; None if nothing."""
