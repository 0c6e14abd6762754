"""Suites as files: `input.json` and `output.json` beside the job, in the format of Great Expectations.

{"expectations": [
{"type": "expect_column_values_to_be_between",
"kwargs": {"column": "age", "min_value": 0, "max_value": 120},
"severity": "critical",
"meta": {"name": "age_range", "quarantine": true, "notes": "nobody is older"}}
]}
"""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import JobError, nearest
from pipeline.job.config import Job
from pipeline.parsing import first_problem
from pipeline.records import Frozen, Rule, Severity
from pipeline.suite.expectations import KINDS, UNSUPPORTED, columns_of

SIDES = ("input", "output")
Side = Literal["input", "output"]


Notes = str | list[str] | None

OURS = ("name", "quarantine", "notes")
"""Keys under `meta` that are ours; Great Expectations and its users may have others there."""
ALIKE = 0.75
"""Similarity from which another key counts as a misspelling of one of these."""
CLOSE = 0.6
"""Similarity from which a kind is suggested for an unknown one."""
IGNORED = ("result_format", "catch_exceptions", "batch_id", "include_rendered_content")
"""Arguments that say how Great Expectations reports a result, not what it expects: Lakescore decides that itself."""
ABOUT_COLUMNS = ("expect_column_to_exist", "expect_table_columns_")
"""Beginnings of the kinds of expectation that test which columns there are."""
PARSERS = ("great_expectations", "great_expectations__experimental__")
OF_GX_0 = {
    "expectation_suite_name": "name",
    "expectation_type": "type",
    "ge_cloud_id": "id",
    "data_asset_type": None,
    "evaluation_parameters": None,
    "suite_parameters": None,
    "expectation_context": None,
    "auto": None,
    "profiler_config": None,
    "include_config": None,
    "parse_strings_as_datetimes": None,
    "allow_cross_type_comparisons": None,
    "output_strftime_format": None,
}
"""Keys of Great Expectations 0.18 and before, and what they are called now; None: they are gone."""


class _Meta(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    name: Annotated[str, Field(pattern=r"^[^\x00\n]{1,100}$")] | None = None
    quarantine: Annotated[bool, Field(strict=True)] = True
    notes: Notes = None


class _Entry(Frozen):
    type: str
    kwargs: dict[str, Any] = {}
    severity: Severity = Severity.critical
    meta: _Meta = _Meta()
    notes: Notes = None
    description: str | None = None
    id: str | None = None
    """Identifier that Great Expectations writes; not used."""
    rendered_content: list[Any] | None = None
    """Text that Great Expectations may write; not used."""


class _Document(Frozen):
    name: str = ""
    expectations: tuple[dict[str, Any], ...]
    meta: dict[str, Any] = {}
    notes: Notes = None
    id: str | None = None


def path_of(job: Job, side: Side) -> Path:
    return job.folder / f"{side}.json"


def load(job: Job, side: Side) -> tuple[Rule, ...]:
    """Returns the rules of a job's suite, or none if the job has no such file. Raises JobError, like `parse`."""
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

    Raises JobError for invalid JSON, an unknown, missing or invalid key, expectation or argument, or a duplicate name.
    """
    try:
        found = json.loads(text)
        _refuse_old_keys(found, where)
        document = _Document.model_validate(found)
    except ValidationError as error:
        raise _job_error(error, where, _Document) from None
    except ValueError as error:
        raise JobError(f"the suite is not valid JSON: {error}", where=where, next_step="see docs/quality.md") from None
    rules = [
        _rule(entry, f"{where}, expectation {number}") for number, entry in enumerate(document.expectations, start=1)
    ]
    given = [rule.name for rule, entry in zip(rules, document.expectations, strict=True) if _is_named(entry)]
    for name, times in Counter(given).items():
        if times > 1:
            raise JobError(
                f"{times} expectations are named {name!r}",
                where=where,
                next_step='give each a unique name: "meta": {"name": ...}',
            )
    return tuple(_numbered(rules, document.expectations))


def _is_named(entry: Mapping[str, Any]) -> bool:
    return bool((entry.get("meta") or {}).get("name"))


def _numbered(rules: Sequence[Rule], entries: Sequence[Mapping[str, Any]]) -> Iterator[Rule]:
    """Yields the rules; the second one of a name that nobody has given ends in `_2`, and so on."""
    taken = {rule.name for rule, entry in zip(rules, entries, strict=True) if _is_named(entry)}
    for rule, entry in zip(rules, entries, strict=True):
        name = rule.name
        if not _is_named(entry):
            name = next(each for number in count(1) if (each := _with_number(name, number)) not in taken)
            taken.add(name)
        yield rule.model_copy(update={"name": name})


def _with_number(name: str, number: int) -> str:
    return name if number == 1 else f"{name}_{number}"


def as_json(rules: Iterable[Rule], notes: list[str]) -> str:
    """Returns the text of a suite file."""
    entries = [
        {"type": rule.type, "kwargs": rule.kwargs, "severity": rule.severity.value, "meta": {"name": rule.name}}
        for rule in rules
    ]
    return json.dumps({"notes": notes, "expectations": entries}, indent=2, ensure_ascii=False) + "\n"


def check_columns(rules: Iterable[Rule], columns: Collection[str], where: object) -> None:
    """Raises JobError for the first column that a rule needs and the data lacks; rules that test this are exempt."""
    for rule in rules:
        if rule.type.startswith(ABOUT_COLUMNS):
            continue
        for column in columns_of(rule.kwargs):
            if column not in columns:
                raise JobError(
                    f"{rule.name}: there is no column {column!r}{nearest(column, list(columns))}",
                    where=where,
                    expected=", ".join(columns),
                    next_step="correct the suite, or use expect_column_to_exist if the data should have it",
                )


def check_known(rules: Sequence[Rule], columns: Collection[str], where: object) -> None:
    """Raises JobError as `check_columns`, except for columns of which a rule of the suite says that they have to exist.

    If such a column is absent, that rule fails, and it is the data that is wrong.
    """
    tests = [rule.kwargs for rule in rules if rule.type.startswith(ABOUT_COLUMNS)]
    named = {name for kwargs in tests for name in (*columns_of(kwargs), *kwargs.get("column_set", ()))}
    check_columns(
        [rule for rule in rules if not named.issuperset({*columns_of(rule.kwargs)} - {*columns})], columns, where
    )


def _refuse_old_keys(document: object, where: object) -> None:
    """Raises JobError for the keys of a suite that Great Expectations 0.18 or before wrote."""
    if not isinstance(document, dict):
        return
    entries = [entry for entry in document.get("expectations") or () if isinstance(entry, dict)]
    arguments = [entry["kwargs"] for entry in entries if isinstance(entry.get("kwargs"), dict)]
    old = [key for each in (document, *entries, *arguments) for key in each if key in OF_GX_0]
    if not old:
        return
    changes = [f"{key} is now {OF_GX_0[key]}" if OF_GX_0[key] else f"{key} is gone" for key in dict.fromkeys(old)]
    raise JobError(
        "the suite is in the format of Great Expectations 0.18 or before",
        where=where,
        expected="the format of Great Expectations 1",
        got=", ".join(dict.fromkeys(old)),
        next_step=f"change the keys: {'; '.join(changes)}",
    )


def _rule(entry: Mapping[str, Any], where: str) -> Rule:
    try:
        found = _Entry.model_validate({**entry, "meta": entry.get("meta") or {}})
    except ValidationError as error:
        raise _job_error(error, where, _Entry, [*_Entry.model_fields, *OURS]) from None
    _check_meta(entry.get("meta") or {}, where)
    kind = KINDS.get(found.type)
    if kind is None:
        raise _unknown(found.type, where)
    where = f"{where} ({found.type})"
    try:
        arguments = kind.arguments.model_validate(_arguments(found.kwargs, where))
    except ValidationError as error:
        raise _job_error(error, where, kind.arguments) from None
    kwargs = arguments.model_dump(mode="json", exclude_unset=True)
    name = found.meta.name or _name(found.type, kwargs)
    return Rule(
        name=name,
        type=found.type,
        kwargs=kwargs,
        severity=found.severity,
        quarantine=found.meta.quarantine,
        description=" ".join(filter(None, [found.description, _text(found.notes), _text(found.meta.notes)])),
    )


def _check_meta(meta: Mapping[str, Any], where: str) -> None:
    """Raises JobError for a misspelt key of Lakescore; others belong to the author of the suite."""
    for key in set(meta).difference(OURS):
        if close := difflib.get_close_matches(key, OURS, n=1, cutoff=ALIKE):
            raise JobError(
                f"unknown key `meta.{key}`, did you mean {close[0]!r}?", where=where, expected=", ".join(OURS)
            )


def _arguments(kwargs: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Returns the arguments that say what is expected. Raises JobError for those that Lakescore cannot evaluate."""
    parser = kwargs.get("condition_parser")
    if parser is not None and parser not in PARSERS:
        raise JobError(
            f"condition_parser {parser!r} is not supported",
            where=where,
            expected=f"{PARSERS[0]}: a condition that can be written in SQL",
            next_step='write row_condition as {"type": "comparison", "column": {"name": ...}, "operator": ..., '
            '"parameter": ...}',
        )
    if isinstance(kwargs.get("row_condition"), str):
        raise JobError(
            "row_condition is a text",
            where=where,
            expected='{"type": "comparison", "column": {"name": "a"}, "operator": ">", "parameter": 5}',
            got=kwargs["row_condition"],
            next_step="write it so; Great Expectations 1.24 does when it saves a suite, or with to_json_dict()",
        )
    for name, value in kwargs.items():
        if isinstance(value, dict) and "$PARAMETER" in value:
            raise JobError(
                f"`{name}` is a suite parameter, which Lakescore does not support",
                where=where,
                got=str(value["$PARAMETER"]),
                next_step="write its value",
            )
    if kwargs.get("windows"):
        raise JobError(
            "`windows` is not supported", where=where, next_step="write fixed limits, or compare days by [drift]"
        )
    left_out = (*IGNORED, "condition_parser", "windows")
    return {name: value for name, value in kwargs.items() if name not in left_out}


def _unknown(kind: str, where: str) -> JobError:
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind).lower()
    if reason := UNSUPPORTED.get(kind) or UNSUPPORTED.get(snake):
        return JobError(f"{snake} is not supported", where=where, next_step=reason)
    if snake != kind and snake in KINDS:
        return JobError(f"unknown expectation {kind!r}, did you mean {snake!r}?", where=where)
    short = {name.removeprefix("expect_"): name for name in KINDS}
    close = difflib.get_close_matches(snake.removeprefix("expect_"), short, n=3, cutoff=CLOSE)
    meant = f", did you mean {' or '.join(repr(short[name]) for name in close)}?" if close else ""
    return JobError(
        f"unknown expectation {kind!r}{meant}",
        where=where,
        expected=f"one of the {len(KINDS)} kinds in docs/quality.md",
    )


def _text(notes: Notes) -> str:
    return " ".join(notes) if isinstance(notes, list) else notes or ""


def _name(kind: str, kwargs: Mapping[str, Any]) -> str:
    """Returns a name such as `age_values_to_be_between`."""
    short = kind.removeprefix("expect_")
    if "column_A" in kwargs:
        return f"{kwargs['column_A']}_{kwargs['column_B']}_{short.removeprefix('column_pair_')}"
    column = kwargs.get("column")
    return short if column is None else f"{column}_{short.removeprefix('column_')}"


def _job_error(
    error: ValidationError, where: object, model: type[BaseModel], valid: Sequence[str] | None = None
) -> JobError:
    problem = first_problem(error, model, valid=valid)
    return JobError(problem.what, where=where, expected=problem.expected, got=problem.got)
