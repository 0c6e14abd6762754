"""The columns that another registry says a model takes: taken over where the file is silent, else compared with it.

A file says how many numbers it takes, and rarely their names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from pipeline.errors import ModelRefused

if TYPE_CHECKING:
    from pipeline.model.formats import Inspected

Type = Literal["float", "integer", "text", "time", "list", "other"]
DECLARED = {"text": "a category or a hash", "time": "a timestamp"}
"""The kinds of `inputs` that make numbers of what is none."""


@dataclass(frozen=True)
class Column:
    """A column, or a tensor of several."""

    name: str | None
    type: Type
    width: int | None = 1
    """Number of values per row; None if that is not stated."""
    tensor: bool = False


@dataclass(frozen=True)
class InputSchema:
    columns: tuple[Column, ...]
    said_by: str
    """What says it, such as `the MLflow signature`."""
    outputs: int | None = None
    """Number of numbers that the model gives per row; None if that is not stated."""

    @property
    def names(self) -> tuple[str, ...] | None:
        """Names of the features; None if a column has no name, or stands for several features."""
        names = [each.name for each in self.columns if each.name and (each.width == 1 or not each.tensor)]
        return tuple(names) if len(names) == len(self.columns) else None

    def joined(
        self, found: Inspected, features: Sequence[str] | None, given: Mapping[str, Any], where: object
    ) -> Inspected:
        """Returns what is known of a file with the names and types of the schema added.

        `features` are the caller's names, which win if they rename features and leave their order alone; `given` are
        the caller's signature entries. Raises ModelRefused for a contradiction with the file or with these names.
        """
        names, finding = self.names, self._finding(found, features)
        if found.features and names and found.features != names:
            raise self._contradiction("the model's file names", "features", found.features, names, where)
        names = found.features or names
        if names and features is not None:
            self._check_order(names, features, where)
        taken = tuple(features) if features is not None else names
        inputs = dict(given.get("inputs") or {})
        stated = dict(found.stated.entries.get("inputs") or {})
        each = [column for column in self.columns for _ in range(column.width or 1)]
        if taken and len(taken) == len(each):
            declared = {**stated, **inputs}
            for name, column in zip(taken, each, strict=True):
                if name not in declared and (how := self._declaration(name, column, found, where)) is not None:
                    stated[name] = how
        declared = {**stated, **inputs}
        self._check_count(found, declared, taken, where)
        if self.outputs is not None and found.kind == "program" and self.outputs != found.outputs:
            raise self._contradiction("the program gives", "outputs", found.outputs, self.outputs, where)
        entries = {**found.stated.entries, **({"inputs": stated} if stated else {})}
        findings = {"features": finding} if finding else {}
        return replace(found, features=names, stated=replace(found.stated, entries=entries, findings=findings))

    def _finding(self, found: Inspected, features: Sequence[str] | None) -> str | None:
        """Returns where the names of the features come from, in words; None if the schema has none."""
        if self.names is None or found.features:
            return None
        if features is None or tuple(features) == self.names:
            return f"by {self.said_by}"
        return f"as given; {self.said_by} has {', '.join(self.names)}"

    def _declaration(self, name: str, column: Column, found: Inspected, where: object) -> dict[str, Any] | None:
        """Returns how a feature becomes numbers; None for a number as it is."""
        match column.type:
            case "float":
                return None
            case "integer":
                return {"kind": "integer"} if found.int64 == self._width("integer") else None
            case "list" if found.inputs is not None and [each.type for each in self.columns].count("list") == 1:
                length = found.inputs + (found.int64 or 0) - sum(each.width or 0 for each in self.columns)
                if length > 0:
                    return {"kind": "list", "length": length}
        kind = DECLARED.get(column.type, "a list with its length" if column.type == "list" else None)
        raise ModelRefused(
            f"{self.said_by} says that {name} is of type {column.type}, and the model's file takes numbers",
            where=where,
            expected=f"{name} in `inputs` of --signature" + (f", as {kind}" if kind else ""),
            next_step=f"declare {name} as the training code turned it into numbers"
            if kind
            else "log the model with numbers, text or times",
        )

    def _width(self, kind: Type) -> int:
        return sum(each.width or 0 for each in self.columns if each.type == kind)

    def _check_order(self, names: Sequence[str], features: Sequence[str], where: object) -> None:
        """Raises ModelRefused for names that the schema has in another place: the columns would be mixed up."""
        moved = [name for name, other in zip(features, names, strict=False) if name != other and name in names]
        if moved or len(features) != len(names):
            number = f"{len(names)} features, not {len(features)}" if len(features) != len(names) else "another order"
            raise ModelRefused(
                f"{self.said_by} has {number}",
                where=where,
                expected=", ".join(names),
                got=", ".join(features),
                next_step="leave --features out, or rename features in their order",
            )

    def _check_count(
        self, found: Inspected, declared: Mapping[str, Any], names: Sequence[str] | None, where: object
    ) -> None:
        """Raises ModelRefused if the file takes another number of values, as far as both say it."""
        if found.inputs is None or found.int64 is None or any(name in declared for name in names or ()):
            return  # the signature is compared with the file when it is complete
        if any(each.width is None for each in self.columns):
            return
        takes, has = found.inputs + found.int64, sum(each.width or 0 for each in self.columns)
        if takes != has:
            raise self._contradiction("the model's file takes", "values per row", takes, has, where)
        if any(each.tensor and each.type == "float" for each in self.columns) and self._width("float") > found.inputs:
            got = f"{self._width('float')} floating-point numbers"
            raise self._contradiction("the model's file takes", "floating-point numbers", found.inputs, got, where)

    def _contradiction(self, file: str, what: str, takes: Any, has: Any, where: object) -> ModelRefused:
        takes, has = (", ".join(each) if isinstance(each, tuple) else each for each in (takes, has))
        return ModelRefused(
            f"the model's file and {self.said_by} contradict each other",
            where=where,
            expected=f"{file} {takes}" + ("" if what == "features" else f" {what}"),
            got=f"{self.said_by}: {has}",
            next_step="log the model again with the signature of what it takes",
        )
