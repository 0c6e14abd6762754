"""What a model's file says about the model, beside what it computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import ModelRefused


@dataclass(frozen=True)
class Stated:
    features: tuple[str, ...] | None = None
    classes: tuple[str | int, ...] | None = None
    entries: Mapping[str, Any] = field(default_factory=dict)
    """Further entries of the signature: `task`, `outputs`, `quantiles`, and `inputs` by feature. A vocabulary is None
    if the file has one that cannot be read."""
    said_by: str = "the file"
    """What says the entries, such as `its objective binary:logistic`."""
    written_by: str | None = None
    findings: Mapping[str, str] = field(default_factory=dict)
    """What else was found out, and from what, by subject."""

    def completed(self, given: Mapping[str, Any], where: object) -> dict[str, Any]:
        """Returns the signature entries of the caller with those that the file states and the caller does not.

        Raises ModelRefused if the caller states another task or other categories of a feature, or has to state them.
        """
        task = self.entries.get("task")
        if task is not None and given.get("task", task) != task:
            raise ModelRefused(
                f"the model is a {task}, by {self.said_by}",
                where=where,
                expected=task,
                got=given["task"],
                next_step="omit --task, or train the model for this task",
            )
        inputs = dict(given.get("inputs") or {})
        for name, how in self.entries.get("inputs", {}).items():
            inputs[name] = _declared(name, how, inputs.get(name), where)
        return {**self.entries, **given, **({"inputs": inputs} if inputs else {})}


def _declared(name: str, stated: Mapping[str, Any], given: Any, where: object) -> Any:
    """Returns how a feature is declared, by the file and by the caller."""
    if "vocabulary" not in stated or (given is None and stated["vocabulary"] is not None):
        return stated if given is None else given
    declared = {**stated, **given} if isinstance(given, Mapping) else {}
    if stated["vocabulary"] is None:
        if declared.get("kind") == stated["kind"] and declared["vocabulary"]:
            return declared
        raise ModelRefused(
            f"the model's file does not say which categories {name} has",
            where=where,
            got="text with letters beyond ASCII, which its library writes incompletely",
            next_step=f"declare {name} in `inputs` of --signature: a category with its vocabulary, in training order",
        )
    if declared.get("kind") != stated["kind"] or list(declared["vocabulary"]) != stated["vocabulary"]:
        raise ModelRefused(
            f"the model's file lists other categories of {name}, or in another order",
            where=where,
            expected=", ".join(map(str, stated["vocabulary"])),
            got=str(given),
            next_step=f"omit {name} from `inputs`, or its vocabulary",
        )
    return declared
