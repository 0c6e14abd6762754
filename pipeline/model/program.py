"""`torch.export` programs: a graph of tensor operations with its weights, of any architecture, run step by step.

The graph is data: each node names an operation of `operations.py` and its arguments. A program takes tensors of float32
or int64, (rows, columns) or (rows,), with any number of rows. One of those that it returns is used, (rows, outputs) or
(rows,).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from pipeline.errors import ModelRefused
from pipeline.model import ending, operations
from pipeline.model.archive import DTYPES, HOW_TO_EXPORT, HOW_TO_EXPORT_ROWS, Archive, integer
from pipeline.model.feeding import Port, Ported
from pipeline.model.several import Output, chosen

FLOAT32, INT64 = 7, 5
SYMBOL = re.compile(r"(?:Symbol\(')?(\w+)(?:'[^()]*\))?")
"""A symbolic size without arithmetic, as torch 2.13 and earlier versions write it."""
MEMORY_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}
PLAIN = ("as_int", "as_ints", "as_bool", "as_bools", "as_string", "as_int_lists")
HOW_TO_SIMPLIFY = "export it as torch.export.export(...).run_decompositions(), which leaves only ATen's core operations"


class Value(NamedTuple):
    """A reference to a result of an earlier step."""

    name: str


class Device(NamedTuple):
    """A placeholder for the device that the model runs on, whichever it was exported on."""


def _either(content: Mapping[str, Any]) -> Any:
    """Returns a reference by name, or the constant given in its place."""
    ((kind, value),) = content.items()
    if kind == "as_name":
        return Value(value)
    return Value(value["name"]) if kind == "as_tensor" else None if kind == "as_none" else value


READERS: dict[str, Callable[[Any], Any]] = {
    "as_none": lambda _content: None,
    "as_float": float,  # also parses text such as "-Infinity", which is not a JSON number
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
"""Reader for the arguments of each kind."""


@dataclass(frozen=True)
class Step:
    operation: Callable[..., Any]
    arguments: tuple[Any, ...]
    named: Mapping[str, Any]
    results: tuple[str | tuple[str, ...], ...]
    """Names of the results; a tuple of names for a list of tensors."""
    last_uses: tuple[str, ...] = ()
    """Names of the values that are not needed after this step."""


class Program(Ported):
    def __init__(self, archive: Archive, output: str | None = None) -> None:
        """Takes the name or the number of the output to return, if there are several.

        Raises ModelRefused for a program that could do more than compute, or has other inputs or outputs.
        """
        super().__init__()
        self._archive = archive
        module = archive.program["graph_module"]
        graph = module["graph"]
        self._read_signature(module["signature"])
        choice = chosen(_outputs(module, archive), output, archive.where)
        self._output, self.output = choice.value, choice.name if choice.among_several else None
        self.ports, self.outputs = self._read_shapes(graph)
        self.most_rows = self._read_range([graph["tensor_values"][name]["sizes"][0] for name in self._inputs])
        self._steps = _freed([step for node in graph["nodes"] if (step := self._step(node))], self._output)
        self.ending = ending.of_steps(self._steps, self._output, len(graph["tensor_values"][self._output]["sizes"]))
        given = (each for step in self._steps for each in (*step.arguments, *step.named.values()))
        self.casts_to_half = any(each in (torch.float16, torch.bfloat16) for each in given)
        self.written_by = f"torch {archive.program.get('torch_version', 'of unknown version')}"[:100]
        del self._archive

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        """Takes a tensor for each of `ports`."""
        values: dict[str, Any] = {name: getattr(self, place) for name, place in self._places.items()}
        values.update(zip(self._inputs, tensors, strict=True))
        device = tensors[0].device
        for step in self._steps:
            arguments = [_resolved(each, values, device) for each in step.arguments]
            named = {name: _resolved(each, values, device) for name, each in step.named.items()}
            found = step.operation(*arguments, **named)
            results = (found,) if len(step.results) == 1 else found or ()
            for names, result in zip(step.results, results, strict=True):
                values.update({names: result} if isinstance(names, str) else zip(names, result, strict=True))
            for name in step.last_uses:
                del values[name]
        output: torch.Tensor = values[self._output]
        return output if output.ndim == 2 else output.unsqueeze(1)

    def _read_signature(self, signature: Mapping[str, Any]) -> None:
        """Stores the weights, and the names of the inputs."""
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
                raise self._archive.refused("the program has an input that is not a tensor", f"{kind}: {content}")
            place = self._places[content["arg"]["name"]] = f"tensor_{len(self._places)}"
            if tensor.is_floating_point():
                self.register_parameter(place, nn.Parameter(tensor, requires_grad=False))
            else:
                self.register_buffer(place, tensor)
        outputs = [spec.get("user_output", {}).get("arg", {}) for spec in signature["output_specs"]]
        if not inputs or None in inputs or not any("as_tensor" in each for each in outputs) or {} in outputs:
            raise self._archive.refused(
                "a program must take tensors, return tensors, and not modify its own state",
                f"inputs {inputs}, outputs {signature['output_specs']}",
                f"call model.eval() first, and wrap a model with other inputs; {HOW_TO_EXPORT}",
            )
        self._inputs = tuple(map(str, inputs))

    def _read_shapes(self, graph: Mapping[str, Any]) -> tuple[tuple[Port, ...], int]:
        """Returns the inputs, and the number of columns of the output."""
        metas = [graph["tensor_values"][name] for name in (*self._inputs, self._output)]
        shapes = [[size.get("as_int", "rows") for size in meta["sizes"]] for meta in metas]
        *taken, given = (
            f"{DTYPES.get(meta['dtype'])} {tuple(sizes)}" for meta, sizes in zip(metas, shapes, strict=True)
        )
        got = f"{', '.join(taken)} to {given}"
        for sizes in shapes[:-1]:
            if sizes and sizes[0] != "rows":
                raise self._archive.refused(
                    f"the program was exported for exactly {sizes[0]} rows at a time", got, HOW_TO_EXPORT_ROWS
                )
        if metas[-1]["dtype"] in DTYPES and not DTYPES[metas[-1]["dtype"]].is_floating_point:
            raise self._archive.refused(
                "the program outputs whole numbers, which are classes rather than scores",
                got,
                "export the model without its last step, such as argmax or a comparison, so that it outputs the scores",
            )
        right = all(meta["dtype"] in (FLOAT32, INT64) for meta in metas[:-1])
        floating = DTYPES.get(metas[-1]["dtype"], torch.int64).is_floating_point
        if (
            not right
            or not floating
            or not all([size == "rows" for size in sizes] in ([True, False], [True]) for sizes in shapes)
        ):
            raise ModelRefused(
                "the program does not map a matrix to a matrix",
                where=self._archive.where,
                expected="torch.float32 or torch.int64 ('rows', columns) to floating-point numbers ('rows', outputs)",
                got=got,
                next_step="wrap the model in a module that does, and export that",
            )
        widths = [integer(meta["sizes"][1]) if len(meta["sizes"]) == 2 else 1 for meta in metas]
        ports = [
            Port(meta["dtype"] == INT64, width, flat=len(meta["sizes"]) == 1, name=name)
            for name, meta, width in zip(self._inputs, metas[:-1], widths[:-1], strict=True)
        ]
        return tuple(ports), widths[-1]

    def _read_range(self, sizes: Sequence[Mapping[str, Any]]) -> int:
        """Returns the maximum number of rows per forward pass, from the first size of each input."""
        texts = {str(size.get("as_expr", {}).get("expr_str")) for size in sizes}
        if len(texts) > 1:
            raise self._archive.refused(
                "the program's inputs may have different numbers of rows",
                ", ".join(sorted(texts)),
                'pass the same Dim("rows") for the first dimension of each input to torch.export',
            )
        (text,) = texts
        symbol = SYMBOL.fullmatch(text)
        limits = self._archive.program.get("range_constraints", {}).get(symbol[1], {}) if symbol else {}
        if symbol is None or (limits.get("min_val") or 0) > 2:  # the exporter itself assumes 2
            raise self._archive.refused("the program does not accept every number of rows", f"{text} {limits}")
        most = limits.get("max_val")
        return sys.maxsize if most is None else int(most)

    def _step(self, node: Mapping[str, Any]) -> Step | None:
        target = str(node["target"])
        if target in operations.ASSERTIONS:
            return None
        operation = operations.find(target)
        if operation is None:
            raise self._archive.refused(
                "the program names an operation that is not allowed; it was not run",
                target,
                HOW_TO_SIMPLIFY,
            )
        arguments, named = [], {}
        for each in node["inputs"]:
            value = self._argument(each["arg"])
            if each.get("kind", 1) == 2:
                named[each["name"]] = value
            else:
                arguments.append(value)
        if operations.in_training(operation, arguments, named):
            raise self._archive.refused("the program was exported in training mode", target)
        return Step(operation, tuple(arguments), named, tuple(self._result(output) for output in node["outputs"]))

    def _argument(self, argument: Mapping[str, Any]) -> Any:
        ((kind, content),) = argument.items()
        if kind in PLAIN:
            return content
        if kind in READERS:
            return READERS[kind](content)
        raise self._archive.refused("the program has an argument of an unsupported kind", kind)

    def _result(self, output: Mapping[str, Any]) -> str | tuple[str, ...]:
        ((kind, content),) = output.items()
        if kind == "as_tensors":
            return tuple(str(each["name"]) for each in content)
        name = content.get("name") or content.get("as_name") if isinstance(content, Mapping) else None
        if name is None:
            raise self._archive.refused("the program has a step whose result is not a number or tensor", kind)
        return str(name)


def build(content: bytes, where: object, output: str | None = None) -> Program:
    """Returns the program in a `.pt2` file; `output` is needed if it has several. Raises ModelRefused."""
    archive = Archive(content, where)
    try:
        return Program(archive, output)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, RecursionError) as error:
        # hand-written, or from a torch version with another format
        raise archive.refused(
            "the graph is not in the format of torch.export", f"{type(error).__name__}: {error}"
        ) from error


def _outputs(module: Mapping[str, Any], archive: Archive) -> list[Output]:
    """Returns the outputs. Those of a dictionary have its keys as names, others the names of the steps they are of."""
    graph, specs = module["graph"], module["signature"]["output_specs"]
    names = [spec["user_output"]["arg"].get("as_tensor", {}).get("name") for spec in specs]
    calls: list[Mapping[str, Any]] = module.get("module_call_graph", [])
    called = next((each for each in calls if each.get("fqn") == ""), {})
    tree = json.loads(((called.get("signature") or {}).get("out_spec")) or "[]")
    keys: list[Any] = names
    if len(tree) > 1 and tree[1]["type"] == "builtins.dict":
        keys = json.loads(tree[1]["context"])
    if len(keys) != len(names):  # tensors in a dictionary in a dictionary
        keys = names
    found = []
    for number, (key, name) in enumerate(zip(keys, names, strict=True)):
        if name is None:
            continue
        meta = graph["tensor_values"][name]
        sizes = ", ".join(str(size.get("as_int", "rows")) for size in meta["sizes"])
        kind = str(DTYPES.get(meta["dtype"])).removeprefix("torch.")
        found.append(Output(number, str(key), str(name), f"{kind} ({sizes})"))
    if not found:
        raise archive.refused("a program must return a tensor", str(specs))
    return found


def _resolved(argument: Any, values: Mapping[str, Any], device: torch.device) -> Any:
    if isinstance(argument, Value):
        return values[argument.name]
    if isinstance(argument, Device):
        return device
    return [_resolved(each, values, device) for each in argument] if isinstance(argument, list) else argument


def _freed(steps: Sequence[Step], output: str) -> tuple[Step, ...]:
    """Marks the last use of each value, so that it can be freed and memory does not grow with the depth."""
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
