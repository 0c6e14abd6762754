"""`torch.export` programs: a graph of tensor operations and its weights, of any architecture, run step by step.

The graph is data: each node names an operation of `operations.py` and its arguments. A program takes one float32 tensor
(rows, features), with any number of rows, and gives one of (rows, outputs) or (rows,).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from pipeline.errors import ModelRefused
from pipeline.model import operations
from pipeline.model.archive import DTYPES, HOW_TO_EXPORT, Archive, integer

FLOAT32 = 7
SYMBOL = re.compile(r"(?:Symbol\(')?(\w+)(?:'[^()]*\))?")
"""A size that is a number of its own, as torch 2.13 and earlier ones write it."""
MEMORY_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}
PLAIN = ("as_int", "as_ints", "as_bool", "as_bools", "as_string", "as_int_lists")
HOW_TO_SIMPLIFY = "export it as torch.export.export(...).run_decompositions(), which gives ATen's core operations"


class Value(NamedTuple):
    """A value that an earlier step gave."""

    name: str


class Device(NamedTuple):
    """The device that the model runs on, whichever it was exported on."""


def _either(content: Mapping[str, Any]) -> Any:
    """Returns a value by name, or the constant that stands in its place."""
    ((kind, value),) = content.items()
    if kind == "as_name":
        return Value(value)
    return Value(value["name"]) if kind == "as_tensor" else None if kind == "as_none" else value


READERS: dict[str, Callable[[Any], Any]] = {
    "as_none": lambda _content: None,
    "as_float": float,  # of text such as "-Infinity" too, for which JSON has no number
    "as_floats": lambda content: [float(each) for each in content],
    "as_tensor": lambda content: Value(content["name"]),
    "as_tensors": lambda content: [Value(each["name"]) for each in content],
    "as_scalar_type": lambda content: DTYPES[content],
    "as_memory_format": lambda content: MEMORY_FORMATS[content],
    "as_layout": lambda _content: torch.strided,
    "as_device": lambda _content: Device(),
    **dict.fromkeys(("as_sym_int", "as_sym_bool", "as_sym_float", "as_optional_tensor"), _either),
    **dict.fromkeys(
        ("as_sym_ints", "as_sym_bools", "as_sym_floats", "as_optional_tensors"),
        lambda content: [_either(each) for each in content],
    ),
}
"""How an argument of each kind is read."""


@dataclass(frozen=True)
class Step:
    operation: Callable[..., Any]
    arguments: tuple[Any, ...]
    named: Mapping[str, Any]
    results: tuple[str | tuple[str, ...], ...]
    """The names that the results get; a tuple for a list of tensors."""
    last_uses: tuple[str, ...] = ()
    """Values that nothing needs after this step."""


class Program(nn.Module):
    def __init__(self, archive: Archive) -> None:
        """Raises ModelRefused for a program that could do more than compute, or takes and gives something else."""
        super().__init__()
        self._archive = archive
        module = archive.program["graph_module"]
        graph = module["graph"]
        self._read_signature(module["signature"])
        self.inputs, self.outputs = self._read_shapes(graph)
        self.most_rows = self._read_range(graph["tensor_values"][self._input]["sizes"][0])
        self._steps = _freed([step for node in graph["nodes"] if (step := self._step(node))], self._output)
        self.written_by = f"torch {archive.program.get('torch_version', 'of unknown version')}"[:100]
        del self._archive

    def forward(self, matrix: torch.Tensor) -> torch.Tensor:
        values: dict[str, Any] = {name: getattr(self, place) for name, place in self._places.items()}
        values[self._input] = matrix
        for step in self._steps:
            arguments = [_resolved(each, values, matrix.device) for each in step.arguments]
            named = {name: _resolved(each, values, matrix.device) for name, each in step.named.items()}
            found = step.operation(*arguments, **named)
            results = found if len(step.results) > 1 else (found,)
            for names, result in zip(step.results, results, strict=True):
                values.update({names: result} if isinstance(names, str) else zip(names, result, strict=True))
            for name in step.last_uses:
                del values[name]
        output: torch.Tensor = values[self._output]
        return output if output.ndim == 2 else output.unsqueeze(1)

    def _read_signature(self, signature: Mapping[str, Any]) -> None:
        """Keeps the weights, and the names of what goes in and comes out."""
        tensors = {"weights": self._archive.tensors("weights"), "constants": self._archive.tensors("constants")}
        self._places: dict[str, str] = {}
        inputs = []
        for spec in signature["input_specs"]:
            ((kind, content),) = spec.items()
            match kind:
                case "user_input":
                    inputs.append(content["arg"].get("as_tensor", {}).get("name"))
                    continue
                case "parameter" | "buffer" | "tensor_constant":
                    key = content[f"{kind}_name"]
                    held = "constants" if kind == "tensor_constant" else "weights"
                    tensor = tensors[held].get(key, tensors["constants"].get(key))
                case _:
                    tensor = None
            if tensor is None:
                raise self._archive.refused("the program has an input that is no tensor", f"{kind}: {content}")
            place = self._places[content["arg"]["name"]] = f"tensor_{len(self._places)}"
            if tensor.is_floating_point():
                self.register_parameter(place, nn.Parameter(tensor, requires_grad=False))
            else:
                self.register_buffer(place, tensor)
        outputs = [spec.get("user_output", {}).get("arg", {}).get("as_tensor") for spec in signature["output_specs"]]
        if len(inputs) != 1 or inputs[0] is None or len(outputs) != 1 or outputs[0] is None:
            raise self._archive.refused(
                "a program takes one tensor and gives one, and changes nothing of itself",
                f"inputs {inputs}, outputs {signature['output_specs']}",
                f"call model.eval() first, and wrap what takes or gives more; {HOW_TO_EXPORT}",
            )
        self._input, self._output = str(inputs[0]), str(outputs[0]["name"])

    def _read_shapes(self, graph: Mapping[str, Any]) -> tuple[int, int]:
        """Returns the columns of the input and of the output."""
        takes, gives = (graph["tensor_values"][name] for name in (self._input, self._output))
        shapes = [[size.get("as_int", "rows") for size in meta["sizes"]] for meta in (takes, gives)]
        got = f"{DTYPES.get(takes['dtype'])} {tuple(shapes[0])} to {DTYPES.get(gives['dtype'])} {tuple(shapes[1])}"
        if len(shapes[0]) == 2 and shapes[0][0] != "rows":
            raise self._archive.refused(
                f"the program was exported for {shapes[0][0]} rows at a time and no others", got
            )
        right = takes["dtype"] == FLOAT32 and [size == "rows" for size in shapes[0]] == [True, False]
        floating = DTYPES.get(gives["dtype"], torch.int64).is_floating_point
        if not right or not floating or [size == "rows" for size in shapes[1]] not in ([True, False], [True]):
            raise ModelRefused(
                "the program does not take a matrix and give one",
                where=self._archive.where,
                expected="torch.float32 ('rows', features) to floating-point numbers ('rows', outputs)",
                got=got,
                next_step="wrap the model in one that does, and export that",
            )
        return integer(takes["sizes"][1]), integer(gives["sizes"][1]) if len(shapes[1]) == 2 else 1

    def _read_range(self, rows: Mapping[str, Any]) -> int:
        """Returns how many rows may go through at a time."""
        text = str(rows.get("as_expr", {}).get("expr_str"))
        symbol = SYMBOL.fullmatch(text)
        limits = self._archive.program.get("range_constraints", {}).get(symbol[1], {}) if symbol else {}
        if symbol is None or (limits.get("min_val") or 0) > 2:  # 2 is what the exporter itself assumes
            raise self._archive.refused("the program does not take any number of rows", f"{text} {limits}")
        most = limits.get("max_val")
        return sys.maxsize if most is None else int(most)

    def _step(self, node: Mapping[str, Any]) -> Step | None:
        target = str(node["target"])
        if target in operations.ASSERTIONS:
            return None
        operation = operations.find(target)
        if operation is None:
            raise self._archive.refused(
                "the program names an operation that is not one of those allowed; it was not run",
                target,
                HOW_TO_SIMPLIFY,
            )
        arguments, named = [], {}
        for each in node["inputs"]:
            value = self._argument(each["arg"])
            if (each["name"] in ("train", "training") and value is True) or (each["name"] == "dropout_p" and value):
                raise self._archive.refused("the program was exported while training", target)
            if each.get("kind", 1) == 2:
                named[each["name"]] = value
            else:
                arguments.append(value)
        return Step(operation, tuple(arguments), named, tuple(self._result(output) for output in node["outputs"]))

    def _argument(self, argument: Mapping[str, Any]) -> Any:
        ((kind, content),) = argument.items()
        if kind in PLAIN:
            return content
        if kind in READERS:
            return READERS[kind](content)
        raise self._archive.refused("the program has an argument that is no number or tensor", kind)

    def _result(self, output: Mapping[str, Any]) -> str | tuple[str, ...]:
        ((kind, content),) = output.items()
        if kind == "as_tensors":
            return tuple(str(each["name"]) for each in content)
        name = content.get("name") or content.get("as_name") if isinstance(content, Mapping) else None
        if name is None:
            raise self._archive.refused("the program has a step whose result is no number or tensor", kind)
        return str(name)


def build(content: bytes, where: object) -> Program:
    """Raises ModelRefused."""
    archive = Archive(content, where)
    try:
        return Program(archive)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, RecursionError) as error:
        # made by hand, or by a torch that writes it otherwise
        raise archive.refused(
            "the graph is not one that torch.export writes", f"{type(error).__name__}: {error}"
        ) from error


def _resolved(argument: Any, values: Mapping[str, Any], device: torch.device) -> Any:
    if isinstance(argument, Value):
        return values[argument.name]
    if isinstance(argument, Device):
        return device
    return [_resolved(each, values, device) for each in argument] if isinstance(argument, list) else argument


def _freed(steps: Sequence[Step], output: str) -> tuple[Step, ...]:
    """Notes after which step each value is needed no more, so that memory does not grow with the depth."""
    needed = {output}
    found = []
    for step in reversed(steps):
        results = {name for names in step.results for name in ((names,) if isinstance(names, str) else names)}
        mentioned = {*_names(step.arguments), *_names(tuple(step.named.values())), *results}
        found.append(Step(step.operation, step.arguments, step.named, step.results, tuple(mentioned - needed)))
        needed |= mentioned
    return tuple(reversed(found))


def _names(arguments: Sequence[Any]) -> Iterator[str]:
    for each in arguments:
        if isinstance(each, Value):
            yield each.name
        elif isinstance(each, list):
            yield from _names(each)
