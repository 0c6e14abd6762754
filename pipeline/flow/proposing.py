"""Proposes a job from a file of rows and a model: key, features, types and a suite, for a person to read and edit."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from duckdb import ColumnExpression

from pipeline.database.connection import column_types, connect, translated_errors
from pipeline.database.keys import KEY_TYPES, canonical
from pipeline.errors import SchemaMismatch, UsageError, counted, nearest
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
        used = given or _numbers(types, chosen, model, files)
        unique = _distinct(rows, chosen) == count
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


def _numbers(types: Mapping[str, str], key: Collection[str], model: ModelSaid, files: Files) -> tuple[str, ...]:
    """Returns the columns with numbers: the features, if the model does not say otherwise."""
    found = tuple(column for column, kind in types.items() if column not in key and NUMBER.fullmatch(kind))
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
    width = max(len(_quoted(column)) for column in features) + 1
    listed = "\n".join(f"    {_quoted(column) + ',':<{width}} # {kind}" for column, kind in features.items())
    carried = ", ".join(_quoted(column) for column in others)
    return f"""# Proposed from {where}.
# `lakescore job reference` explains every key.
description = "Scores each row of a day."

[model]
name = {_quoted(model.name)}
version = {_quoted(model.version)}   # a version, or an alias that `lakescore models promote` moves

[input]
path = {_quoted(f"{name}/ds={{ds}}/*.parquet")}   # in the lake; `lakescore import --job {name}` writes there
key = [{", ".join(map(_quoted, key))}]   # {told}
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


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
