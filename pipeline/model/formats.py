"""The kinds of model file. A new kind needs a name in `manifest.Kind`, one in FILES, and a branch in both functions.

mypy reports an error in `module` until every kind is handled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

from pydantic import ValidationError

from pipeline.errors import ModelRefused, UsageError
from pipeline.model.manifest import Kind, LibraryKind, Signature
from pipeline.model.scalers import Scaler
from pipeline.model.shape_check import check_count, check_scores, check_shapes, no_outputs
from pipeline.model.stated import Stated
from pipeline.parsing import first_problem
from pipeline.storage import translated_os_errors

if TYPE_CHECKING:
    from torch import nn

    from pipeline.model.feeding import Port
    from pipeline.model.library_model import LibraryModel
    from pipeline.model.tensors import Weights as SafeTensors
    from pipeline.model.unstated import Weights

FILES: dict[Kind, str] = {
    "checkpoint": "model.pt",
    "program": "model.pt2",
    "safetensors": "model.safetensors",
    "pickled": "model.pickle.pt",
    "onnx": "model.onnx",
    "xgboost": "model.xgboost",
    "lightgbm": "model.lightgbm.txt",
}
"""File name in the registry, by kind."""


@dataclass(frozen=True)
class Inspected:
    """Properties read from a model file; None where the file does not state them."""

    kind: Kind
    inputs: int | None
    """Number of float32 columns that the model takes; None (unknown) for a pickled module."""
    outputs: int | None
    """Number of outputs per row; None (unknown) for a pickled module."""
    features: tuple[str, ...] | None = None
    classes: tuple[str | int, ...] | None = None
    version: str | None = None
    architecture: str | None = None
    written_by: str | None = None
    int64: int | None = 0
    """Number of int64 values that it takes per row; None (unknown) for a pickled module."""
    scaler: Scaler = field(default_factory=dict)
    """Values in the file that look like those of a scaler, one per input, by their place in it."""
    decides: str | None = None
    """The last operation, if it turns scores into classes."""
    weights: Weights | None = None
    """What is known of the structure of a file that has only weights."""
    stated: Stated = field(default_factory=Stated)
    """What else the file states."""
    ports: tuple[Port, ...] = ()
    """The inputs of a program or a graph."""
    output: str | None = None
    """Name of the output that was chosen among several."""

    def names(self, features: Sequence[str] | None, given: Mapping[str, Any]) -> Sequence[str] | None:
        """Returns the names of the features, by the caller or by his `tensors`, in the order of the model's inputs."""
        named: Sequence[str] | None = given.get("features") if features is None else features
        tensors = given.get("tensors") or {}
        if named is not None or not isinstance(tensors, Mapping) or not tensors:
            return named
        known = [port.name for port in self.ports if port.name in tensors]
        order = [*known, *(name for name in tensors if name not in known)]
        return list(dict.fromkeys(str(name) for tensor in order for name in tensors[tensor]))

    def signature(
        self,
        features: Sequence[str] | None,
        classes: Sequence[str | int] | None,
        where: object,
        further: Mapping[str, Any] | None = None,
    ) -> Signature:
        """Combines the caller's names with those in the file. Raises ModelRefused if they contradict each other.

        `further` has other signature entries, such as `task` and `inputs`; its `features` and `classes` are used if
        the caller passes none.
        """
        more = {name: value for name, value in (further or {}).items() if name != "architecture" or value is not None}
        listed = {name: more.pop(name, None) for name in ("features", "classes")}
        features = listed["features"] if features is None else features
        classes = listed["classes"] if classes is None else classes
        task = str(more.get("task", "classification"))
        check_scores(self.decides, task, where)
        names = self.features if features is None else tuple(features)
        if names is None:
            raise ModelRefused(
                "the model's file does not name its features",
                where=where,
                expected=f"{self.inputs} names",
                next_step="pass --features a,b,c in the order used in training",
            )
        labels = self._labels(classes, task)
        if not more.get("inputs") and self.inputs is not None and not self.int64:
            check_count("features", names, self.inputs, where)
        if self.features and names != self.features and set(names) == set(self.features):
            raise ModelRefused(
                "the model's file lists the same features in another order",
                where=where,
                expected=", ".join(self.features),
                got=", ".join(names),
                next_step="leave --features out, or pass them in the file's order",
            )
        if task == "classification" and self.outputs is not None:
            check_count("classes", labels, max(self.outputs, 2), where)
        more["output"] = self.output
        entries = {"architecture": self.architecture, **more, "features": names, "classes": labels}
        try:
            signature = Signature.model_validate(entries)
        except ValidationError as error:
            problem = first_problem(error, Signature)
            raise ModelRefused(f"invalid signature: {problem.what}", where=where, got=problem.got) from None
        check_shapes(self, signature, where)
        return signature

    def _labels(self, classes: Sequence[str | int] | None, task: str) -> tuple[str | int, ...]:
        if classes is not None or task == "regression":
            return tuple(classes or ())
        numbered = max(self.outputs or 0, 2) if task == "classification" else self.outputs or 1
        return self.classes or tuple(range(numbered))


def read_file(path: Path) -> bytes:
    """Returns the file's content. Raises UsageError if the file does not exist."""
    with translated_os_errors(path):
        try:
            return path.read_bytes()
        except (FileNotFoundError, IsADirectoryError):
            raise UsageError("no such model file", where=path) from None


def inspect(
    content: bytes,
    where: object,
    architecture: str | None = None,
    *,
    output: str | None = None,
    trusted: str | None = None,
) -> Inspected:
    """Detects the kind of a model file and reads its properties, without running code from it. Raises ModelRefused.

    `output` is the name or number of the output to use, of a program or graph; `trusted` is the sha256 of a pickled
    file whose code `module` may run later.
    """
    from pipeline.model import archive, other_files, pickled, program, tensors

    if not tensors.looks_like_one(content) and not archive.looks_like_one(content):
        library = other_files.check(content, where, trusted=trusted is not None)
        if library is not None:
            _only_for_weights(architecture, where)
            return _of_library(library, content, where, output)
    if trusted is not None and output is not None:
        raise no_outputs(where)
    if trusted is not None:
        pickled.check_trusted(content, trusted, where)
        return Inspected("pickled", None, None, int64=None)
    if archive.looks_like_one(content):
        _only_for_weights(architecture, where)
        built = program.build(content, where, output)
        return Inspected(
            "program",
            built.inputs,
            built.outputs,
            written_by=built.written_by,
            int64=built.int64,
            decides=built.ending.last if built.ending.values == "classes" else None,
            ports=built.ports,
            output=built.output,
        )
    if output is not None:
        raise no_outputs(where)
    if tensors.looks_like_one(content):
        return _of_safetensors(tensors.parse(content, where), architecture, where)
    return _of_checkpoint(content, architecture, where)


def _of_library(kind: LibraryKind, content: bytes, where: object, output: str | None) -> Inspected:
    built = _by_library(kind, content, where, output)
    return Inspected(
        kind,
        built.inputs,
        built.outputs,
        features=built.stated.features,
        classes=built.stated.classes,
        written_by=built.stated.written_by,
        int64=built.int64,
        decides=built.ending.last if built.ending.values == "classes" else None,
        stated=built.stated,
        ports=built.ports,
        output=built.output,
    )


def _of_safetensors(found: SafeTensors, architecture: str | None, where: object) -> Inspected:
    from pipeline.model import scalers, tensors
    from pipeline.model.checkpoint import DIMENSIONS, check_declared, layers_of
    from pipeline.model.unstated import GUESSED, Weights

    named = found.metadata.get("architecture")
    chosen = architecture or named or GUESSED
    tensors.build(found, chosen, where)
    tensors.check_order(found, where)
    layers = layers_of(found.tensors, where)
    declared = {name: int(text) for name in DIMENSIONS if (text := found.metadata.get(name, "")).isdecimal()}
    check_declared(declared, layers, where)
    weights = Weights(
        layers=layers,
        names=tuple(dict.fromkeys(name.rpartition(".")[0] for name in found.tensors)),
        architecture=chosen,
        named_by=_named_by(architecture, named),
        dimensions=tuple(declared),
    )
    return Inspected(
        "safetensors",
        inputs=layers[0].weight.shape[1],
        outputs=layers[-1].weight.shape[0],
        features=tensors.names_in(found.metadata, "features"),
        classes=tensors.names_in(found.metadata, "classes"),
        version=found.metadata.get("version"),
        architecture=chosen,
        scaler=scalers.in_text(found.metadata, layers[0].weight.shape[1]),
        weights=weights,
    )


def _of_checkpoint(content: bytes, architecture: str | None, where: object) -> Inspected:
    from pipeline.model import checkpoint
    from pipeline.model.architectures import is_known
    from pipeline.model.unstated import GUESSED, Weights

    found = checkpoint.parse(content, where, _activation(architecture, where))
    named = found.architecture if found.architecture and is_known(found.architecture) else None
    if architecture is not None and named is not None and architecture != named:
        raise ModelRefused(
            "the file names another architecture",
            where=where,
            expected=architecture,
            got=named,
            next_step="leave --architecture out, or save the checkpoint again",
        )
    chosen = architecture or named or GUESSED
    weights = Weights(
        layers=found.layers,
        names=found.names,
        architecture=chosen,
        named_by=_named_by(architecture, named),
        dimensions=tuple(found.declared),
        unknown=found.architecture if named is None else None,
    )
    return Inspected(
        "checkpoint",
        inputs=found.inputs,
        outputs=found.outputs,
        features=found.features,
        classes=found.classes,
        version=found.version,
        # None also stands for the guessed one, so that digests of models registered earlier stay valid
        architecture=architecture or (named if named != GUESSED else None),
        scaler=found.scaler,
        weights=weights,
    )


def _named_by(architecture: str | None, named: str | None) -> str | None:
    return "the file says" if named else "--architecture says" if architecture else None


def module(kind: Kind, content: bytes, where: object, signature: Signature) -> nn.Module:
    """Returns the model: float32 (rows, columns) to (rows, outputs). Raises ModelRefused.

    For a pickled model this runs the code in the file: the caller must have checked that it is trusted.
    """
    from pipeline.model.feeding import fed

    return fed(_read(kind, content, where, signature), signature)


def _read(kind: Kind, content: bytes, where: object, signature: Signature) -> nn.Module:
    match kind:
        case "checkpoint":
            from pipeline.model import checkpoint

            activation = _activation(signature.architecture, where)
            return checkpoint.build(checkpoint.parse(content, where, activation), activation)
        case "program":
            from pipeline.model import program

            return program.build(content, where, signature.output)
        case "safetensors":
            from pipeline.model import tensors

            return tensors.build(tensors.parse(content, where), str(signature.architecture), where)
        case "pickled":
            from pipeline.model import pickled

            return pickled.build(content, where)
        case "onnx" | "xgboost" | "lightgbm":
            return _by_library(kind, content, where, signature.output)
        case _:
            assert_never(kind)


def _by_library(kind: LibraryKind, content: bytes, where: object, output: str | None) -> LibraryModel:
    if output is not None and kind != "onnx":
        raise no_outputs(where)
    match kind:
        case "onnx":
            from pipeline.model import onnx

            return onnx.build(content, where, output)
        case "xgboost":
            from pipeline.model import xgboost

            return xgboost.build(content, where)
        case "lightgbm":
            from pipeline.model import lightgbm

            return lightgbm.build(content, where)
        case _:
            assert_never(kind)


def _activation(architecture: str | None, where: object) -> str:
    if architecture is None:
        return "relu"
    from pipeline.model.architectures import activation_of

    return activation_of(architecture, where)


def _only_for_weights(architecture: str | None, where: object) -> None:
    if architecture is not None:
        raise ModelRefused(
            "the file contains its own architecture", where=where, got=architecture, next_step="omit --architecture"
        )
