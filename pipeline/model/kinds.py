"""The kinds of model file. A new kind is a name in `manifest.Kind`, a file name, and a branch in both functions here.

mypy refuses `module` until it answers for every kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

from pydantic import ValidationError

from pipeline.errors import ModelRefused, UsageError
from pipeline.model.manifest import Kind, Signature, problem
from pipeline.storage import explained

if TYPE_CHECKING:
    from torch import nn

FILES: dict[Kind, str] = {
    "checkpoint": "model.pt",
    "program": "model.pt2",
    "safetensors": "model.safetensors",
    "pickled": "model.pickle.pt",
}
"""The name under which a file of each kind is kept."""


@dataclass(frozen=True)
class Inspected:
    """What a model file says of itself. Names are None where it lists none."""

    kind: Kind
    inputs: int | None
    """Columns of the matrix that it takes; of a pickled module nobody knows."""
    outputs: int | None
    features: tuple[str, ...] | None = None
    classes: tuple[str | int, ...] | None = None
    version: str | None = None
    architecture: str | None = None
    written_by: str | None = None

    def signature(
        self,
        features: Sequence[str] | None,
        classes: Sequence[str | int] | None,
        where: object,
        further: Mapping[str, Any] | None = None,
    ) -> Signature:
        """Joins what the caller names with what the file says. Raises ModelRefused if they do not go together.

        `further` are other entries of a signature, such as `task` and `inputs`; `features` and `classes` in it count
        where the caller names none.
        """
        more = dict(further or {})
        listed = {name: more.pop(name, None) for name in ("features", "classes")}
        features = listed["features"] if features is None else features
        classes = listed["classes"] if classes is None else classes
        names = self.features if features is None else tuple(features)
        if names is None:
            raise ModelRefused(
                "the model's file does not name its features",
                where=where,
                expected=f"{self.inputs} names",
                next_step="pass --features a,b,c in the order in which the model was trained",
            )
        labels = self._labels(classes, str(more.get("task", "classification")))
        if not more.get("inputs") and self.inputs is not None:
            _check_count("features", names, self.inputs, where)
        if self.features and names != self.features and set(names) == set(self.features):
            raise ModelRefused(
                "the model's file lists the same features in another order",
                where=where,
                expected=", ".join(self.features),
                got=", ".join(names),
                next_step="leave --features out, or pass them in the file's order",
            )
        if more.get("task", "classification") == "classification" and self.outputs is not None:
            _check_count("classes", labels, max(self.outputs, 2), where)
        entries = {"architecture": self.architecture, **more, "features": names, "classes": labels}
        try:
            signature = Signature.model_validate(entries)
        except ValidationError as error:
            what, got = problem(error)
            raise ModelRefused(f"not a signature: {what}", where=where, got=got) from None
        _check_shapes(self, signature, where)
        return signature

    def _labels(self, classes: Sequence[str | int] | None, task: str) -> tuple[str | int, ...]:
        if classes is not None or task == "regression":
            return tuple(classes or ())
        numbered = max(self.outputs or 0, 2) if task == "classification" else self.outputs or 1
        return self.classes or tuple(range(numbered))


def read_file(path: Path) -> bytes:
    """Raises UsageError if there is no such file."""
    with explained(path):
        try:
            return path.read_bytes()
        except (FileNotFoundError, IsADirectoryError):
            raise UsageError("there is no such model file", where=path) from None


def inspect(content: bytes, where: object, architecture: str | None = None, *, trusted: str | None = None) -> Inspected:
    """Reads a model file of whichever kind it is, running no code from it. Raises ModelRefused.

    `trusted` is the sha256 of a file of which code may be run, later, by `module`.
    """
    from pipeline.model import archive, checkpoint, pickled, program, tensors

    if trusted is not None:
        pickled.check_trusted(content, trusted, where)
        return Inspected("pickled", None, None)
    if archive.looks_like_one(content):
        _only_for_weights(architecture, where)
        built = program.build(content, where)
        return Inspected("program", built.inputs, built.outputs, written_by=built.written_by)
    if tensors.looks_like_one(content):
        weights = tensors.parse(content, where)
        module, named = tensors.build(weights, architecture, where)
        shapes = [tuple(parameter.shape) for parameter in module.parameters() if parameter.ndim == 2]
        return Inspected(
            "safetensors",
            inputs=shapes[0][1],
            outputs=shapes[-1][0],
            features=tensors.names_in(weights.metadata, "features"),
            classes=tensors.names_in(weights.metadata, "classes"),
            version=weights.metadata.get("version"),
            architecture=named,
        )
    found = checkpoint.parse(content, where, _activation(architecture, where))
    return Inspected(
        "checkpoint", found.inputs, found.outputs, found.features, found.classes, found.version, architecture
    )


def module(kind: Kind, content: bytes, where: object, signature: Signature) -> nn.Module:
    """Returns the model itself: (rows, columns) float32 to (rows, outputs). Raises ModelRefused.

    Of a pickled one this runs the code in the file: whoever calls it has made sure that this is wanted.
    """
    match kind:
        case "checkpoint":
            from pipeline.model import checkpoint

            activation = _activation(signature.architecture, where)
            return checkpoint.build(checkpoint.parse(content, where, activation), activation)
        case "program":
            from pipeline.model import program

            return program.build(content, where)
        case "safetensors":
            from pipeline.model import tensors

            return tensors.build(tensors.parse(content, where), signature.architecture, where)[0]
        case "pickled":
            from pipeline.model import pickled

            return pickled.build(content, where)
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
            "the file holds its own architecture", where=where, got=architecture, next_step="leave --architecture out"
        )


def _check_shapes(found: Inspected, signature: Signature, where: object) -> None:
    if found.inputs is not None and signature.width != found.inputs:
        raise ModelRefused(
            f"the model takes {found.inputs} columns, but the signature's features make {signature.width}",
            where=where,
            expected=f"{found.inputs} columns",
            got=", ".join(f"{name} {signature.columns.count(name)}" for name in signature.features),
            next_step="correct `features` and `inputs`, in the order in which the model was trained",
        )
    single = signature.task == "classification" and len(signature.classes) == 2 and found.outputs == 1
    if found.outputs is not None and signature.outputs != found.outputs and not single:
        raise ModelRefused(
            f"the model gives {found.outputs} outputs, but the signature speaks of {signature.outputs}",
            where=where,
            expected=f"a {signature.task} with {signature.outputs} outputs",
            got=f"{found.outputs} outputs",
            next_step="correct `task`, `classes` (of a ranking the items), `quantiles` or `variance`",
        )


def _check_count(what: str, names: Sequence[str | int], count: int, where: object) -> None:
    if len(names) != count:
        raise ModelRefused(
            f"the model has {count} {what}, but {len(names)} are named",
            where=where,
            expected=f"{count} {what}",
            got=", ".join(map(str, names)) or "none",
            next_step=f"pass --{what} with {count} names, in the order in which the model was trained",
        )
