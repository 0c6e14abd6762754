"""Says in words what is wrong with a hand-written document: the most relevant of pydantic's errors."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError

from pipeline.errors import nearest

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


OF_PYDANTIC = ("[key]", "constrained", "function-", "tuple[", "dict[")
"""Beginnings of steps that pydantic adds to a location: for the key of a mapping, and for the members of a union."""


@dataclass(frozen=True)
class Problem:
    location: str
    """Path of the key, with dots between levels; empty for the whole document."""
    what: str
    expected: str | None = None
    got: str | None = None
    missing: bool = False
    """Whether a required key is missing."""


def first_problem(
    error: ValidationError,
    model: type[BaseModel],
    *,
    valid: Sequence[str] | None = None,
    words: Mapping[str, str] | None = None,
) -> Problem:
    """Returns the first problem. Unknown keys come first: a misspelt key may also be reported as missing.

    `valid` lists the keys to suggest, by default those of `model` at the location of the problem. `words` says what is
    expected, by the value's pattern or by pydantic's error type.
    """
    problems = error.errors(include_url=False)
    problem = next((each for each in problems if each["type"] == "extra_forbidden"), problems[0])
    inside = _without_tags(model, problem["loc"])
    steps = [str(step) for step in inside if not str(step).startswith(OF_PYDANTIC)]
    location = ".".join(steps)
    if problem["type"] in ("union_tag_not_found", "union_tag_invalid"):
        return _untagged(problem, location)
    known = list(valid) if valid is not None else keys_at(model, problem["loc"][:-1])
    if problem["type"] == "extra_forbidden":
        what = f"unknown key `{location}`{nearest(steps[-1], known)}"
        return Problem(location, what, expected=", ".join(known), got=steps[-1])
    if problem["type"] == "missing":
        return Problem(location, f"`{location}` is missing", expected=", ".join(known), missing=True)
    got = None if isinstance(problem["input"], dict) else repr(problem["input"])
    if expected := (words or {}).get(problem.get("ctx", {}).get("pattern", problem["type"])):
        return Problem(location, f"`{location}` is not valid", expected=expected, got=got)
    message = problem["msg"].removeprefix("Value error, ")
    return Problem(location, f"`{location}`: {message}" if location else message, got=got)


def _untagged(problem: ErrorDetails, location: str) -> Problem:
    """Returns the problem of a table whose kind is missing, or is none."""
    context = problem.get("ctx", {})
    name = str(context.get("discriminator", "")).strip("'")
    kinds = re.findall(r"'([^']*)'", str(context.get("expected_tags", "")))
    if problem["type"] == "union_tag_not_found":
        return Problem(f"{location}.{name}", f"`{location}.{name}` is missing", missing=True)
    tag = str(context.get("tag", ""))
    what = f"`{location}.{name}` is not valid{nearest(tag, kinds)}"
    return Problem(f"{location}.{name}", what, expected=", ".join(kinds), got=repr(tag))


def keys_at(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """Returns the keys of the model at a location within a model; empty if there is no model at that location."""
    found = _models_at(model, location)
    return list(found[0].model_fields) if len(found) == 1 else []


def _without_tags(model: type[BaseModel], location: Sequence[int | str]) -> list[int | str]:
    """Returns a location without the steps that only name a member of a union: they stand in no document."""
    return [
        step
        for at, step in enumerate(location)
        if isinstance(step, int) or len(found := _models_at(model, location[:at])) < 2 or _tagged(found, step) is None
    ]


def _models_at(model: type[BaseModel], location: Sequence[int | str]) -> list[type[BaseModel]]:
    """Returns the models that may be at a location: several for a union, until a step names one of them."""
    found = [model]
    for step in location:
        if isinstance(step, int):
            continue
        if len(found) > 1 and (one := _tagged(found, step)) is not None:
            found = [one]
        else:
            fields = [each.model_fields[step] for each in found if step in each.model_fields]
            found = [inner for field in fields for inner in _models_in(field.annotation)]
    return found


def _tagged(models: Sequence[type[BaseModel]], tag: str) -> type[BaseModel] | None:
    """Returns the model of a union of which a field is the constant `tag`."""
    constants = {
        constant: each
        for each in models
        for field in each.model_fields.values()
        if get_origin(field.annotation) is Literal
        for constant in get_args(field.annotation)
    }
    return constants.get(tag)


def _models_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [inner for each in get_args(annotation) for inner in _models_in(each)]
