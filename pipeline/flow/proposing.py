"""Proposes a job from a file of rows and a model: key, features, types and a suite, for a person to read and edit."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from duckdb import ColumnExpression, FunctionExpression

from pipeline.database.connection import column_types, connect, translated_errors
from pipeline.database.keys import KEY_TYPES, canonical
from pipeline.errors import SchemaMismatch, UsageError, counted, nearest
from pipeline.job.project import quoted
from pipeline.model.schema_check import NUMBER
from pipeline.quality.on_demand import notes_of, proposed_rules
from pipeline.suite import suite
from pipeline.tabular import sources

if TYPE_CHECKING:
    from duckdb import DuckDBPyRelation as Relation

    from pipeline.tabular.sources import Files

LIKE_A_KEY = re.compile(r"(.*[_ -])?(id|key|no|nr|code|uuid|number)|.*(Id|ID|Key|Nr|No)", re.ASCII)
"""Names that a column of a key often has."""
MOST_TRIED = 12
"""Number of columns whose pairs are tried as a key."""
COMMA = r" *[+-]?\d+(,\d+)? *"
"""Pattern of a number that is written with a decimal comma, or without decimals."""
DATES = {"DATE", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE"}


@dataclass(frozen=True)
class ModelSaid:
    """What is known of the model that is to score."""

    name: str
    version: str = "production"
    features: tuple[str, ...] | None = None
    """Its features in order; None if its file does not name them."""
    inputs: int | None = None
    """Number of features that its file takes, if that is known."""
    kinds: Mapping[str, str] | None = None
    """Kinds of the features that are not numbers, such as `category`; None if nothing is known of the model."""


@dataclass(frozen=True)
class Proposal:
    toml: str
    suite: str
    """Text of `input.json`."""
    key: tuple[str, ...]
    features: tuple[str, ...]
    dates: tuple[str, ...]
    """Columns with a day or a time, by which an import can divide the rows."""
    types: dict[str, str]
    """Types of the columns of text that later days should keep, for `--types`."""
    rows: int
    empty: dict[str, int]
    """Number of rows in which a feature is empty, of the features that are in any."""


def propose(name: str, files: Files, model: ModelSaid, key: Sequence[str], features: Sequence[str]) -> Proposal:
    """Returns a job for rows like those of some files. `key` and `features` are what the caller knows, or empty.

    Raises UsageError if the key or the features cannot be found, SchemaMismatch if the files lack a column.
    """
    with connect() as con, translated_errors(files):
        rows = sources.read(con, files, key=tuple(key))
        types, count = column_types(rows), int(rows.aggregate("count(*)").fetchall()[0][0])
        if count == 0:
            raise UsageError("the file has no rows to propose a job from", where=files)
        given = _given(features, model, types, files)
        chosen = _named(key, types, files) or _key(rows, types, count, given or (), files)
        used = given or _numbers(rows, types, chosen, model, files)
        _check_numbers(rows, used, types, model, files)
        unique = _distinct(rows, chosen) == count
        empty = _empty(rows, used)
        rules = proposed_rules(rows.select(*map(ColumnExpression, (*chosen, *used))), chosen, unique=unique)
    others = [column for column in types if column not in (*chosen, *used)]
    dates = tuple(column for column in others if types[column] in DATES)
    where = f"{' '.join(str(files).split())}, {counted(count, 'row')}"
    text = _toml(name, model, chosen, {column: types[column] for column in used}, others, where, unique=unique)
    return Proposal(
        text,
        suite.as_json(rules, notes_of(count, f"of {files}")),
        chosen,
        used,
        dates,
        {column: "VARCHAR" for column in chosen if canonical(types[column]) == "VARCHAR" and files.kind != "Parquet"},
        count,
        empty,
    )


def _given(features: Sequence[str], model: ModelSaid, types: Mapping[str, str], files: Files) -> tuple[str, ...] | None:
    """Returns the features that are known, which must be columns; None if they have to be found."""
    known = tuple(features) or model.features
    return None if known is None else _named(known, types, files)


def _named(names: Sequence[str], types: Mapping[str, str], files: Files) -> tuple[str, ...]:
    for column in names:
        if column not in types:
            raise SchemaMismatch(
                f"no column is called {column!r}{nearest(column, list(types))}",
                where=files,
                expected=", ".join(names),
                got=", ".join(types),
                next_step=f"--rename OLD={column} gives a column this name, here and in lakescore import",
            )
    return tuple(names)


def _numbers(
    rows: Relation, types: Mapping[str, str], key: Collection[str], model: ModelSaid, files: Files
) -> tuple[str, ...]:
    """Returns the columns with numbers: the features, if the model does not say otherwise."""
    found = tuple(column for column, kind in types.items() if column not in key and NUMBER.fullmatch(kind))
    commas = [column for column in types if column not in key] if files.decimal == "." else []
    if not found or model.inputs is None or len(found) != model.inputs:
        _refuse_commas(rows, commas, types, files)
    if not found or (model.inputs is not None and len(found) != model.inputs):
        takes = "the features of the model" if model.inputs is None else counted(model.inputs, "feature")
        raise UsageError(
            "the features cannot be told from the columns",
            where=files,
            expected=takes,
            got=f"{counted(len(found), 'column')} with numbers beside the key: {', '.join(found) or 'none'}",
            next_step="name them in the order of the training: --features a,b,c",
        )
    return found


def _check_numbers(
    rows: Relation, used: Sequence[str], types: Mapping[str, str], model: ModelSaid, files: Files
) -> None:
    """Raises SchemaMismatch if a column of a feature is text, and the model takes a number there."""
    if model.kinds is None:
        return
    texts = [name for name in used if name not in model.kinds and canonical(types[name]) == "VARCHAR"]
    _refuse_commas(rows, texts, types, files)
    if texts:
        raise SchemaMismatch(
            f"a feature is text, and the model takes numbers: {', '.join(texts)}",
            where=files,
            expected="columns with numbers",
            got=", ".join(f"{name} {types[name]}, such as {_some(rows, name)!r}" for name in texts),
            next_step="correct --features, or the column; for a model with categories, lakescore models register it "
            "with --signature first, and name it by --model",
        )


def _refuse_commas(rows: Relation, columns: Sequence[str], types: Mapping[str, str], files: Files) -> None:
    """Raises SchemaMismatch if some of the columns are text of which all values are numbers with a decimal comma."""
    found = []
    for name in columns:
        if canonical(types[name]) != "VARCHAR" or name in files.types or files.decimal != ".":
            continue
        column = ColumnExpression(name)
        text = rows.filter(column.isnotnull()).select(column.alias("text"))
        fits = text.aggregate(f"bool_and(regexp_full_match(text, '{COMMA}')), max(text) FILTER (contains(text, ','))")
        every, shown = fits.fetchall()[0]
        if every and shown is not None:
            found.append((name, shown))
    if found:
        delimiter = f" {files.spelling.delimiter(files.delimiter)}" if files.delimiter else ""
        raise SchemaMismatch(
            "columns hold numbers with a comma, which are read as text",
            where=files,
            expected="numbers with a decimal point, or the option for a comma",
            got=", ".join(f"{name}, such as {shown!r}" for name, shown in found),
            next_step=f"if it is the decimal comma: {files.spelling.decimal(',')}{delimiter}, here and for "
            f"lakescore import; if they are text: {files.spelling.type(found[0][0], 'VARCHAR')}",
        )


def _some(rows: Relation, name: str) -> object:
    column = ColumnExpression(name)
    return next((value for (value,) in rows.filter(column.isnotnull()).select(column).limit(1).fetchall()), None)


def _key(
    rows: Relation, types: Mapping[str, str], count: int, features: Collection[str], files: Files
) -> tuple[str, ...]:
    """Returns the column, or the pair of columns, of which no two rows have the same values."""
    may = [name for name, kind in types.items() if canonical(kind) in KEY_TYPES - {"BOOLEAN"} and name not in features]
    may = [name for name in may if not rows.filter(ColumnExpression(name).isnull()).limit(1).fetchall()]
    named = [name for name in may if LIKE_A_KEY.fullmatch(name)]
    texts = [name for name in may if canonical(types[name]) == "VARCHAR" and name not in named]
    likely = [*named, *texts, *(name for name in may if types[name] in DATES)]
    rest = [name for name in may if name not in likely]
    singles: Iterable[tuple[str, ...]] = ((name,) for name in (*named, *texts))
    candidates = (*singles, *combinations(likely[:MOST_TRIED], 2), *((name,) for name in rest))
    for columns in candidates:
        if _distinct(rows, columns) == count:
            return tuple(name for name in types if name in columns)
    raise UsageError(
        "no column, and no pair of columns, identifies the rows",
        where=files,
        expected="columns of which no two rows have the same values",
        got=f"{counted(count, 'row')}; columns without gaps that could be a key: {', '.join(may) or 'none'}",
        next_step="name the columns: --key a,b; rows with the same key but other values go to quarantine",
    )


def _empty(rows: Relation, features: Sequence[str]) -> dict[str, int]:
    counts = rows.aggregate([FunctionExpression("count_if", ColumnExpression(name).isnull()) for name in features])
    return {name: count for name, count in zip(features, counts.fetchall()[0], strict=True) if count}


def _distinct(rows: Relation, columns: Sequence[str]) -> int:
    return int(rows.select(*map(ColumnExpression, columns)).distinct().aggregate("count(*)").fetchall()[0][0])


def _toml(
    name: str,
    model: ModelSaid,
    key: Sequence[str],
    features: Mapping[str, str],
    others: Sequence[str],
    where: str,
    *,
    unique: bool,
) -> str:
    told = "no two rows have the same" if unique else "NOT unique: rows that differ would go to quarantine"
    width = max(len(quoted(column)) for column in features) + 1
    listed = "\n".join(f"    {quoted(column) + ',':<{width}} # {kind}" for column, kind in features.items())
    carried = ", ".join(quoted(column) for column in others)
    return f"""# Proposed from {where}.
# `lakescore job reference` explains every key.
description = "Scores each row of a day."

[model]
name = {quoted(model.name)}
version = {quoted(model.version)}   # a version, or an alias that `lakescore models promote` moves

[input]
path = {quoted(f"{name}/ds={{ds}}/*.parquet")}   # in the lake; `lakescore import --job {name}` writes there
key = [{", ".join(map(quoted, key))}]   # {told}
features = [   # in the order of the training
{listed}
]
# carry = [{carried}]   # columns to copy into the predictions

[policy]
null_features = "quarantine"   # or "fail", or "score": the model receives NaN
max_quarantined = "5%"         # a larger share stops the run, and nothing is published

[schedule]
every = "day"                  # or "week", "month", "hour"
timezone = "UTC"
"""
