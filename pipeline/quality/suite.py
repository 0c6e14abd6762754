"""Suites as files: `input.json` and `output.json` beside the job, in the form that Great Expectations reads and writes.

{"expectations": [
{"type": "expect_column_values_to_be_between",
"kwargs": {"column": "age", "min_value": 0, "max_value": 120},
"severity": "critical",
"meta": {"name": "age_range", "quarantine": true, "notes": "nobody is older"}}
]}
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from pipeline.errors import JobError, nearest
from pipeline.job import Job
from pipeline.quality.kinds import KINDS
from pipeline.records import Frozen, Rule, Severity

SIDES = ("input", "output")
Side = Literal["input", "output"]


class _Meta(Frozen):
    name: Annotated[str, Field(pattern=r"^[^\x00\n]{1,100}$")] | None = None
    quarantine: Annotated[bool, Field(strict=True)] = True
    notes: str | list[str] = ""


class _Entry(Frozen):
    type: str
    kwargs: dict[str, Any] = {}
    severity: Severity = Severity.critical
    meta: _Meta = _Meta()
    id: str | None = None
    """Written by Great Expectations; nothing depends on it."""


class _Document(Frozen):
    name: str = ""
    expectations: tuple[dict[str, Any], ...]
    meta: dict[str, Any] = {}
    notes: str | list[str] = ""
    id: str | None = None


def path_of(job: Job, side: Side) -> Path:
    return job.folder / f"{side}.json"


def load(job: Job, side: Side) -> tuple[Rule, ...]:
    """Returns the rules of a job's suite; none if it has no such file. Raises JobError, as `parse` does."""
    path = path_of(job, side)
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(f"the suite cannot be read: {error}", where=path) from None
    return parse(text, path)


def parse(text: str, where: object) -> tuple[Rule, ...]:
    """Reads the text of a suite.

    Raises JobError for what is no JSON, an unknown or misspelt key, expectation or argument, and a name used twice.
    """
    try:
        document = _Document.model_validate(json.loads(text))
    except ValueError as error:
        if isinstance(error, ValidationError):
            raise _explained(error, where, list(_Document.model_fields)) from None
        raise JobError(f"the suite is no JSON: {error}", where=where, next_step="see docs/quality.md") from None
    rules = [
        _rule(entry, f"{where}, expectation {number}") for number, entry in enumerate(document.expectations, start=1)
    ]
    for name, times in Counter(rule.name for rule in rules).items():
        if times > 1:
            raise JobError(
                f"{times} expectations are called {name!r}",
                where=where,
                next_step='give each a name of its own: "meta": {"name": ...}',
            )
    return tuple(rules)


def as_json(rules: Iterable[Rule], notes: list[str]) -> str:
    """Returns the text of a suite file."""
    entries = [
        {"type": rule.type, "kwargs": rule.kwargs, "severity": rule.severity.value, "meta": {"name": rule.name}}
        for rule in rules
    ]
    return json.dumps({"notes": notes, "expectations": entries}, indent=2, ensure_ascii=False) + "\n"


def check_columns(rules: Iterable[Rule], columns: Collection[str], where: object) -> None:
    """Raises JobError for the first column that a rule names and the data lacks; `expect_column_to_exist` may."""
    for rule in rules:
        if rule.type in ("expect_column_to_exist", "expect_table_columns_to_match_set"):
            continue
        for column in (*filter(None, [rule.column]), *rule.kwargs.get("column_list", ())):
            if column not in columns:
                raise JobError(
                    f"{rule.name}: there is no column {column!r}{nearest(column, list(columns))}",
                    where=where,
                    expected=", ".join(columns),
                    next_step="correct the suite, or add expect_column_to_exist if the column is to come back",
                )


def _rule(entry: Mapping[str, Any], where: str) -> Rule:
    try:
        found = _Entry.model_validate(entry)
    except ValidationError as error:
        raise _explained(error, where, [*_Entry.model_fields, *_Meta.model_fields]) from None
    kind = KINDS.get(found.type)
    if kind is None:
        raise JobError(
            f"no expectation is called {found.type!r}{nearest(found.type, list(KINDS))}",
            where=where,
            expected=f"one of the {len(KINDS)} kinds in docs/quality.md",
        )
    try:
        arguments = kind.arguments.model_validate(found.kwargs)
    except ValidationError as error:
        raise _explained(error, f"{where} ({found.type})", list(kind.arguments.model_fields)) from None
    kwargs = arguments.model_dump(mode="json", exclude_unset=True)
    name = found.meta.name or _name(found.type, kwargs)
    return Rule(name=name, type=found.type, kwargs=kwargs, severity=found.severity, quarantine=found.meta.quarantine)


def _name(kind: str, kwargs: Mapping[str, Any]) -> str:
    """Returns a name such as `age_values_to_be_between`."""
    short = kind.removeprefix("expect_")
    column = kwargs.get("column")
    return short if column is None else f"{column}_{short.removeprefix('column_')}"


def _explained(error: ValidationError, where: object, valid: list[str]) -> JobError:
    problems = error.errors(include_url=False)
    problem = next((each for each in problems if each["type"] == "extra_forbidden"), problems[0])
    location = ".".join(str(step) for step in problem["loc"] if not str(step).startswith(("constrained", "function-")))
    if problem["type"] == "extra_forbidden":
        name = str(problem["loc"][-1])
        what = f"unknown key `{location}`{nearest(name, valid)}"
        return JobError(what, where=where, expected=", ".join(valid), got=name)
    if problem["type"] == "missing":
        return JobError(f"`{location}` is missing", where=where, expected=", ".join(valid))
    message = problem["msg"].removeprefix("Value error, ")
    got = None if isinstance(problem["input"], dict) else repr(problem["input"])
    return JobError(f"`{location}`: {message}" if location else message, where=where, got=got)
