"""Compares a signature with the shapes in a model's file, at registration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from pipeline.errors import ModelRefused, nearest
from pipeline.model.inputs import Input, is_int64, pieces_of

if TYPE_CHECKING:
    from pipeline.model.feeding import Port
    from pipeline.model.manifest import Signature


class Shapes(Protocol):
    """What a model's file says of its inputs and outputs; None where it does not."""

    @property
    def inputs(self) -> int | None: ...
    @property
    def int64(self) -> int | None: ...
    @property
    def outputs(self) -> int | None: ...
    @property
    def ports(self) -> tuple[Port, ...]: ...


def no_outputs(where: object) -> ModelRefused:
    """Returns the error for an output that is named where there is one only."""
    return ModelRefused(
        "a model of this kind has one output",
        where=where,
        expected="--output for a program of torch.export or an ONNX model",
        next_step="omit --output",
    )


def check_scores(decides: str | None, task: str, where: object) -> None:
    """Raises ModelRefused if a classifier ends in a step that turns scores into classes."""
    if decides is not None and task in ("classification", "multilabel"):
        raise ModelRefused(
            "the model outputs classes, not scores",
            where=where,
            expected="logits, probabilities or log-probabilities",
            got=f"a program that ends in {decides}",
            next_step="export the model without this step: the class is the one with the highest probability",
        )


def check_shapes(found: Shapes, signature: Signature, where: object) -> None:
    """Raises ModelRefused if the features do not fill the inputs of the model, or the task has other outputs."""
    if signature.tensors:
        _check_tensors(found, signature, where)
    int64 = signature.int64
    if not signature.tensors and found.int64 is not None and signature.int64_values != found.int64:
        takes = f"takes {found.int64} int64 values per row" if found.int64 else "takes float32 only"
        raise ModelRefused(
            f"the model {takes}, but the signature declares {signature.int64_values}",
            where=where,
            expected=f"{found.int64} features of kind `integer`, or of `category` or `hash` with encode = int64",
            got=", ".join(int64) or "none",
            next_step="declare them in `inputs` of --signature, in the order in which the model takes them"
            if found.int64
            else "declare a `category` or `hash`, or export a program with torch.export that takes an int64 tensor",
        )
    width = sum(1 for name in signature.columns if name not in int64)
    if not signature.tensors and found.inputs is not None and width != found.inputs:
        raise ModelRefused(
            f"the model takes {found.inputs} columns, but the features of the signature have {width}",
            where=where,
            expected=f"{found.inputs} columns",
            got=", ".join(
                f"{name} {signature.columns.count(name)}" for name in signature.features if name not in int64
            ),
            next_step="correct `features` and `inputs`; their order must be the one used in training",
        )
    single = signature.task == "classification" and len(signature.classes) == 2 and found.outputs == 1
    if found.outputs is not None and signature.output_count != found.outputs and not single:
        raise ModelRefused(
            f"the model has {found.outputs} outputs, but its signature has {signature.output_count}",
            where=where,
            expected=f"a {signature.task} with {signature.output_count} outputs",
            got=f"{found.outputs} outputs",
            next_step="correct `task`, `classes` (for a ranking, the items), `quantiles` or `variance`",
        )


def _check_tensors(found: Shapes, signature: Signature, where: object) -> None:
    ports = {port.name: port for port in found.ports}
    if set(ports) != set(signature.tensors):
        unknown = [name + nearest(name, list(ports)) for name in signature.tensors if name not in ports]
        missing = [name for name in ports if name not in signature.tensors]
        raise ModelRefused(
            f"the model has no input {', '.join(unknown)}"
            if unknown
            else f"the features of the input {', '.join(missing)} are not named",
            where=where,
            expected="; ".join(map(str, found.ports)) or "no named inputs: only programs and ONNX models have them",
            got=", ".join(signature.tensors),
            next_step="pass --input NAME=a,b for each input",
        )
    for name, features in signature.tensors.items():
        port = ports[name]
        other = [each for each in features if is_int64(signature.inputs.get(each)) is not port.int64]
        if other:
            kinds = "integers, or categories or hashes with encode = int64" if port.int64 else "float32"
            raise ModelRefused(
                f"the model's input {name} takes {kinds}, which {', '.join(other)} is not",
                where=where,
                expected=str(port),
                got=", ".join(features),
                next_step="declare such features in `inputs` of --signature, or name others",
            )
        widths = {each: _values(signature.inputs.get(each)) for each in features}
        if sum(widths.values()) != port.columns:
            raise ModelRefused(
                f"the model's input {name} takes {port.columns} values per row, but its features have "
                f"{sum(widths.values())}",
                where=where,
                expected=str(port),
                got=", ".join(f"{each} {width}" for each, width in widths.items()),
                next_step="correct the features of this input; their order must be the one used in training",
            )


def _values(how: Input | None) -> int:
    return 1 if how is None else how.width // pieces_of(how)


def check_count(what: str, names: Sequence[str | int], count: int, where: object) -> None:
    """Raises ModelRefused if another number of features or classes is named than the model has."""
    if len(names) != count:
        raise ModelRefused(
            f"the model has {count} {what}, but {len(names)} are named",
            where=where,
            expected=f"{count} {what}",
            got=", ".join(map(str, names)) or "none",
            next_step=f"pass --{what} with {count} names, in the order used in training",
        )
