"""Reads the graph of an ONNX file as data, and refuses what could do more than compute. Nothing is run here.

A graph takes tensors of float32, float64 or int64, (rows, columns) or (rows,), with any number of rows. Of its outputs,
the scores are used: what scikit-learn's converter adds, the label and a dictionary per row, is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import ModelRefused
from pipeline.model.ending import Ending
from pipeline.model.feeding import Port
from pipeline.model.library_model import extra, reading
from pipeline.model.several import Output, chosen
from pipeline.model.stated import Stated

MOST_BYTES = 2**31 - 1
"""Largest ONNX file: a message of protobuf is smaller than 2 GiB. Larger models keep weights in other files."""
DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
"""The standard operators; onnxruntime has them built in."""
RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
FLOAT, INT64, FLOAT16, DOUBLE = 1, 7, 10, 11
TYPES = {1: "float32", 6: "int32", 7: "int64", 8: "text", 9: "bool", 10: "float16", 11: "float64"}
EXTERNAL = 1
"""The `data_location` of a tensor whose values lie in another file."""
SAME = frozenset({"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze"})
LINEAR = frozenset({"Gemm", "MatMul"})
CLASSES = frozenset({"ArgMax", "ArgMin", "Round", "Floor", "Ceil", "Greater", "Less", "Equal", "OneHot", "Not"})
HOW_TO_CONVERT = (
    "convert it with a float32 or int64 input (skl2onnx: initial_types of FloatTensorType or Int64TensorType), and "
    "declare categories and times in `inputs` of --signature"
)


@dataclass(frozen=True)
class Graph:
    content: bytes
    """The file with the scores as its only output, as onnxruntime is given it."""
    inputs: tuple[str, ...]
    """Names of the inputs, one for each of `ports`."""
    doubles: frozenset[str]
    """The inputs that are float64; they are given float32 values."""
    ports: tuple[Port, ...]
    output: str
    among_several: bool
    """Whether other outputs may be the scores as well."""
    ending: Ending
    casts_to_half: bool
    stated: Stated


def parse(content: bytes, where: object, asked: str | None = None) -> Graph:
    """Reads a file; `asked` is the output to use.

    Raises ModelRefused for what is damaged or not allowed, UsageError if `onnx` is not installed.
    """
    with extra("onnx"):
        import onnx
    if len(content) > MOST_BYTES:
        raise ModelRefused("the ONNX file is too large", where=where, expected="less than 2 GiB", got=len(content))
    with reading("ONNX file", where):
        model = onnx.load_model_from_string(content)
        model.ClearField("training_info")  # graphs that training alone runs
        messages = list(_messages(model))
    _check_tensors(messages, where)
    _check_operators(model, messages, where)
    graph = model.graph
    inputs = _inputs(graph, where)
    names = tuple(each.name for each in inputs)
    ports = tuple(_port(each, where) for each in inputs)
    choice = _scores(graph, asked, where)
    scores = graph.output[choice.number]
    classes = _classes(graph, scores)
    output = _use_only(graph, scores)
    half = any(_half(each) for each in messages)
    return Graph(
        content=model.SerializeToString(),
        inputs=names,
        doubles=frozenset(each.name for each in inputs if each.type.tensor_type.elem_type == DOUBLE),
        ports=ports,
        output=output,
        among_several=choice.among_several,
        ending=_ending(graph, output),
        casts_to_half=half,
        stated=_stated(names, ports, classes, f"{model.producer_name} {model.producer_version}".strip()),
    )


def _messages(message: Any) -> Iterator[Any]:
    """Yields every node, tensor and graph in a message, however deep, in subgraphs and functions too."""
    yield message
    for description, value in message.ListFields():
        if description.message_type is not None:
            for each in [value] if hasattr(value, "ListFields") else value:
                yield from _messages(each)


def _of_type(messages: list[Any], name: str) -> Iterator[Any]:
    return (each for each in messages if each.DESCRIPTOR.name == name)


def _check_tensors(messages: list[Any], where: object) -> None:
    for tensor in _of_type(messages, "TensorProto"):
        if tensor.data_location == EXTERNAL or tensor.external_data:
            raise ModelRefused(
                "the ONNX model has weights in another file, which is not read",
                where=where,
                got=f"{tensor.name or 'a tensor'} in another file",
                next_step="save it in one file: onnx.save(onnx.load(path), path, save_as_external_data=False)",
            )


def _check_operators(model: Any, messages: list[Any], where: object) -> None:
    own = {(each.domain, each.name) for each in model.functions}
    for node in _of_type(messages, "NodeProto"):
        name = f"{node.domain}:{node.op_type}".removeprefix(":")
        if node.domain not in DOMAINS and (node.domain, node.op_type) not in own:
            raise ModelRefused(
                "the ONNX model uses an operator that is not a standard one; it was not run",
                where=where,
                expected="operators of ai.onnx and ai.onnx.ml",
                got=name,
                next_step="convert it again without optimizations or custom operators",
            )
        if node.op_type in RANDOM or (node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]):
            raise ModelRefused(
                "the ONNX model draws random numbers, so its outputs would differ each time",
                where=where,
                got=name,
                next_step="export it in inference mode",
            )
        if node.op_type == "Loop":
            raise ModelRefused(
                "the ONNX model has a loop, which may not end",
                where=where,
                got=name,
                next_step="export it without loops: unrolled, or as an operator such as LSTM or Scan",
            )


def _inputs(graph: Any, where: object) -> list[Any]:
    weights = {each.name for each in graph.initializer} | {each.values.name for each in graph.sparse_initializer}
    inputs = [each for each in graph.input if each.name not in weights]
    if not inputs:
        raise ModelRefused("the ONNX model has no input", where=where)
    return inputs


def _port(value: Any, where: object) -> Port:
    kind = value.type.tensor_type.elem_type if value.type.WhichOneof("value") == "tensor_type" else None
    sizes = value.type.tensor_type.shape.dim if kind is not None else []
    fixed = [size.dim_value if size.WhichOneof("value") == "dim_value" else None for size in sizes]
    got = f"{value.name}: {_shape(value)}"
    if kind not in (FLOAT, INT64, DOUBLE):
        raise ModelRefused(
            "the ONNX model has an input of another type",
            where=where,
            expected="float32, float64 or int64",
            got=got,
            next_step=HOW_TO_CONVERT,
        )
    if fixed[:1] and fixed[0] is not None:
        raise ModelRefused(
            f"the ONNX model was exported for exactly {fixed[0]} rows at a time",
            where=where,
            got=got,
            next_step="export it with a dynamic first dimension: dynamic_shapes or dynamic_axes in torch.onnx.export",
        )
    if len(fixed) not in (1, 2) or not (fixed[1:] == [] or fixed[1]):
        raise ModelRefused(
            "the ONNX model does not take a matrix",
            where=where,
            expected="inputs of (rows, columns) with a known number of columns, or (rows,)",
            got=got,
            next_step="export it with such inputs",
        )
    return Port(kind == INT64, fixed[1] or 1 if len(fixed) == 2 else 1, flat=len(fixed) == 1, name=value.name)


def _scores(graph: Any, asked: str | None, where: object) -> Output:
    """Returns the output with the scores. Raises ModelRefused if there is none, or if it is not clear which it is."""
    zipped = _zipped(graph)
    found = [
        Output(number, each.name, each.name, _shape(each))
        for number, each in enumerate(graph.output)
        if each.name in zipped or _type(each) in (FLOAT, DOUBLE, FLOAT16)
    ]
    if not found:
        raise ModelRefused(
            "the ONNX model outputs classes, not scores",
            where=where,
            expected="an output of floating-point numbers",
            got=", ".join(each.name for each in graph.output) or "none",
            next_step="convert it with probabilities (skl2onnx: models with predict_proba), or export the layer before",
        )
    return chosen(found, asked, where)


def _shape(value: Any) -> str:
    """Returns type and shape of an input or output, in words."""
    sizes = [
        str(size.dim_value) if size.WhichOneof("value") == "dim_value" else "rows"
        for size in value.type.tensor_type.shape.dim
    ]
    return f"{TYPES.get(_type(value) or 0, 'another type')} ({', '.join(sizes)})"


def _type(value: Any) -> int | None:
    return value.type.tensor_type.elem_type if value.type.WhichOneof("value") == "tensor_type" else None


def _zipped(graph: Any) -> dict[str, Any]:
    """Returns the nodes that turn the columns of a matrix into a dictionary per row, by output."""
    return {node.output[0]: node for node in graph.node if node.op_type == "ZipMap" and node.output}


def _use_only(graph: Any, scores: Any) -> str:
    """Makes the scores the only output of the graph, as a matrix; returns its name."""
    import onnx

    zipped = _zipped(graph)
    if scores.name in zipped:
        node = zipped[scores.name]
        output = str(node.input[0])
        graph.node.remove(node)
        scores = onnx.helper.make_empty_tensor_value_info(output)
    else:
        output = str(scores.name)
    kept = type(scores).FromString(scores.SerializeToString())
    del graph.output[:]
    graph.output.append(kept)
    return output


def _attributes(node: Any) -> Mapping[str, Any]:
    return {each.name: each for each in node.attribute}


def _classes(graph: Any, scores: Any) -> tuple[str | int, ...] | None:
    """Returns the labels of the columns of the scores, if the node that makes the labels, or the dictionary, has them.

    Other nodes may have labels of their own, such as those of the classifiers in an ensemble.
    """
    zipped = _zipped(graph)
    if scores.name in zipped:
        return _labels(zipped[scores.name])
    made = {name: node for node in graph.node for name in node.output}
    nodes = [_behind(each.name, made) for each in graph.output if each.name != scores.name]
    found = [_labels(node) or _taken(node, scores.name, graph, made) for node in nodes if node is not None]
    return next((labels for labels in found if labels), None)


def _taken(node: Any, scores: str, graph: Any, made: Mapping[str, Any]) -> tuple[str | int, ...] | None:
    """Returns the list of labels of which a node takes that with the highest score."""
    import onnx

    if node.op_type != "ArrayFeatureExtractor":
        return None
    highest = _behind(node.input[1], made)
    of_scores = highest is not None and highest.op_type == "ArgMax" and highest.input[0] == scores
    weights = [each for each in graph.initializer if of_scores and each.name == node.input[0]]
    values = [value for each in weights for value in onnx.numpy_helper.to_array(each).ravel().tolist()]
    return tuple(each.decode("utf-8", "replace") if isinstance(each, bytes) else each for each in values) or None


def _labels(node: Any) -> tuple[str | int, ...] | None:
    attributes = _attributes(node)
    texts = [each.decode("utf-8", "replace") for each in _listed(attributes, "classlabels_strings", "strings")]
    numbers = _listed(attributes, "classlabels_int64s", "ints") or _listed(attributes, "classlabels_ints", "ints")
    return tuple(texts) or tuple(int(each) for each in numbers) or None


def _listed(attributes: Mapping[str, Any], name: str, field: str) -> list[Any]:
    return list(getattr(attributes[name], field)) if name in attributes else []


def _behind(name: str, made: Mapping[str, Any]) -> Any:
    """Returns the node that computes a value, behind those that only copy, cast or reshape; None for an input."""
    node = made.get(name)
    for _ in range(len(made)):
        if node is None or node.domain not in DOMAINS or node.op_type not in SAME:
            break
        node = made.get(node.input[0])
    return node


def _ending(graph: Any, output: str) -> Ending:
    made = {name: node for node in graph.node for name in node.output}
    node = _behind(output, made)
    if node is None:
        return Ending("unknown", "an input or a weight")
    kind = node.op_type
    direct = made.get(output) is node
    axis = _attributes(node)["axis"].i if "axis" in _attributes(node) else -1
    if kind in ("Softmax", "LogSoftmax") and axis in (1, -1):
        values = "probabilities" if kind == "Softmax" else "log_probabilities"
        return Ending("probabilities" if values == "probabilities" else "log_probabilities", kind, normalized=direct)
    if kind == "Sigmoid":
        return Ending("probabilities", kind)
    added = [_behind(name, made) for name in node.input] if kind == "Add" else []
    if kind in LINEAR or any(each is not None and each.op_type in LINEAR for each in added):
        return Ending("linear", "a linear layer")
    return Ending("classes" if kind in CLASSES else "unknown", kind)


def _half(message: Any) -> bool:
    """Returns whether a message is a weight in float16 or bfloat16, or casts to them."""
    halves = (FLOAT16, 16)
    if message.DESCRIPTOR.name == "TensorProto":
        return message.data_type in halves
    casts = message.DESCRIPTOR.name == "NodeProto" and message.op_type == "Cast"
    return casts and any(each.name == "to" and each.i in halves for each in message.attribute)


def _stated(
    names: tuple[str, ...], ports: tuple[Port, ...], classes: tuple[str | int, ...] | None, written_by: str
) -> Stated:
    """An input for each feature has its name; the name of a matrix is no feature."""
    features = names if len(names) > 1 and all(port.columns == 1 for port in ports) else None
    integers = {name: {"kind": "integer"} for name, port in zip(names, ports, strict=True) if features and port.int64}
    return Stated(
        features=features,
        classes=classes,
        entries={"inputs": integers} if integers else {},
        said_by="the types of its inputs",
        written_by=written_by[:100] or None,
    )
