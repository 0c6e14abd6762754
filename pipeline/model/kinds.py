"""The kinds of model file. A new kind is a name in `manifest.Kind`, a file name, and a branch in both functions here.

mypy refuses `module` until it answers for every kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from pydantic import ValidationError

from pipeline.errors import ModelRefused, UsageError
from pipeline.model.manifest import Kind, Signature, problem
from pipeline.storage import explained

if TYPE_CHECKING:
    from torch import nn

FILES: dict[Kind, str] = {"checkpoint": "model.pt"}
"""The name under which a file of each kind is kept."""


@dataclass(frozen=True)
class Inspected:
    """What a model file says of itself. Names are None where it lists none."""

    kind: Kind
    inputs: int
    """Columns of the matrix that it takes."""
    class_count: int
    features: tuple[str, ...] | None
    classes: tuple[str | int, ...] | None
    version: str | None

    def signature(
        self, features: Sequence[str] | None, classes: Sequence[str | int] | None, where: object
    ) -> Signature:
        """Joins what the caller names with what the file says. Raises ModelRefused if they do not go together."""
        names = self.features if features is None else tuple(features)
        if names is None:
            raise ModelRefused(
                "the model's file does not name its features",
                where=where,
                expected=f"{self.inputs} names",
                next_step="pass --features a,b,c in the order in which the model was trained",
            )
        labels = tuple(classes) if classes is not None else self.classes or tuple(range(self.class_count))
        _check_count("features", names, self.inputs, where)
        _check_count("classes", labels, self.class_count, where)
        if self.features and names != self.features and set(names) == set(self.features):
            raise ModelRefused(
                "the model's file lists the same features in another order",
                where=where,
                expected=", ".join(self.features),
                got=", ".join(names),
                next_step="leave --features out, or pass them in the file's order",
            )
        try:
            return Signature(features=names, classes=labels)
        except ValidationError as error:
            what, got = problem(error)
            raise ModelRefused(f"not a signature: {what}", where=where, got=got) from None


def read_file(path: Path) -> bytes:
    """Raises UsageError if there is no such file."""
    with explained(path):
        try:
            return path.read_bytes()
        except (FileNotFoundError, IsADirectoryError):
            raise UsageError("there is no such model file", where=path) from None


def inspect(content: bytes, where: object) -> Inspected:
    """Reads a model file of whichever kind it is, running no code from it. Raises ModelRefused."""
    from pipeline.model import checkpoint

    found = checkpoint.parse(content, where)
    return Inspected(
        kind="checkpoint",
        inputs=found.inputs,
        class_count=found.class_count,
        features=found.features,
        classes=found.classes,
        version=found.version,
    )


def module(kind: Kind, content: bytes, where: object) -> nn.Module:
    """Returns the model itself: (rows, features) float32 to (rows, outputs) logits. Raises ModelRefused."""
    match kind:
        case "checkpoint":
            from pipeline.model import checkpoint

            return checkpoint.build(checkpoint.parse(content, where))
        case _:
            assert_never(kind)


def _check_count(what: str, names: Sequence[str | int], count: int, where: object) -> None:
    if len(names) != count:
        raise ModelRefused(
            f"the model has {count} {what}, but {len(names)} are named",
            where=where,
            expected=f"{count} {what}",
            got=", ".join(map(str, names)) or "none",
            next_step=f"pass --{what} with {count} names, in the order in which the model was trained",
        )
