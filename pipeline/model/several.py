"""Models with several outputs: which of them is stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import ModelRefused, nearest


@dataclass(frozen=True)
class Output:
    number: int
    """Its place, from 0."""
    name: str
    value: str
    """The value of the graph that it is."""
    shape: str
    """Its type and shape, in words."""
    among_several: bool = True

    def __str__(self) -> str:
        return f"{self.number} {self.name}: {self.shape}"


def chosen(outputs: Sequence[Output], asked: str | None, where: object) -> Output:
    """Returns the output with a name, or with a number. Without either, there must be one only.

    Raises ModelRefused, with a list of the outputs, if there are several and none is asked for, or no such output.
    """
    listed = ", ".join(map(str, outputs))
    if asked is None:
        if len(outputs) == 1:
            return Output(**{**vars(outputs[0]), "among_several": False})
        raise ModelRefused(
            f"the model has {len(outputs)} outputs, and one is stored",
            where=where,
            expected="the name of one, or its number",
            got=listed,
            next_step=f"pass --output {outputs[0].name}, or another of them",
        )
    found = [each for each in outputs if each.name == asked]
    found = found or [each for each in outputs if str(each.number) == asked]
    if len(found) != 1:
        what = "two outputs are" if found else "no output is"
        raise ModelRefused(
            f"{what} called {asked!r}{nearest(asked, [each.name for each in outputs])}",
            where=where,
            expected="the name of one, or its number",
            got=listed,
            next_step="correct --output",
        )
    return Output(**{**vars(found[0]), "among_several": len(outputs) > 1})
