"""Combines rows of different files: gives them equal columns, and adds columns for queries."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING

from duckdb import ColumnExpression, ConstantExpression, FunctionExpression, StarExpression

from pipeline.columns import KEY_TEXT, is_output
from pipeline.database import wide
from pipeline.database.connection import column_types
from pipeline.periods import DS

if TYPE_CHECKING:
    from duckdb import DuckDBPyRelation as Relation
    from duckdb import Expression

NUMBER = re.compile(r"U?(TINY|SMALL|BIG|HUGE)INT|U?INTEGER|FLOAT|DOUBLE|DECIMAL\(.*\)")
INSTANTS = {"TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ_NS"}
"""DuckDB's types of points in time; those without a zone are dates with a time of day."""
WITHOUT_ZONE = {"DATE", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"}
"""DuckDB's types of days and of times as written, in whatever zone."""


def aligned(pieces: Sequence[Relation], fixed: Mapping[str, str]) -> list[Relation]:
    """Returns the relations with the same columns in the same order; those of `fixed` are always present.

    Numeric types of a column may differ; if any other types differ, its values become text.
    """
    names: dict[str, str] = {}
    kinds: dict[str, set[str]] = defaultdict(set)
    for piece in pieces:
        for name, kind in column_types(piece).items():
            names.setdefault(name.lower(), name)
            if kind != '"NULL"':  # a column that has no type, because it has no value: in a file without rows
                kinds[name.lower()].add("a number" if NUMBER.fullmatch(kind) else kind)
    names |= {name: name for name in fixed if name not in names}

    def column(name: str, present: Mapping[str, str]) -> Expression:
        if name not in present:
            return ConstantExpression(None).cast(fixed.get(name, '"NULL"'))
        return _text(names[name], present[name]) if len(kinds[name]) > 1 else ColumnExpression(names[name])

    found = []
    for piece in pieces:
        present = {name.lower(): kind for name, kind in column_types(piece).items()}
        found.append(wide.select(piece, {names[name]: column(name, present) for name in names}))
    return found


def union(pieces: Sequence[Relation]) -> Relation:
    return reduce(lambda left, right: left.union(right), pieces)


def with_key_text(relation: Relation, key: Sequence[str], ours: Collection[str]) -> Relation:
    r"""Adds `key_text`, the key as text: several columns joined by commas; a comma within a value is written `\,`.

    If the relation has no column of `key`, the key is all columns that are not in `ours` and no output of the model.
    """
    names = [name for name in key if name in relation.columns]
    names = names or [name for name in relation.columns if name not in ours and not is_output(name)]
    types = column_types(relation)
    texts = [_text(name, types[name]) for name in names]
    if len(texts) > 1:
        texts = [FunctionExpression("concat_ws", ConstantExpression(","), *map(_escaped, texts))]
    return relation.select(StarExpression(), texts[0].alias(KEY_TEXT))


def _text(column: str, kind: str) -> Expression:
    """Returns the values of a column as text. An instant is written in UTC, whatever the zone of a catalog's client."""
    value = ColumnExpression(column)
    if kind not in INSTANTS:
        return value.cast("VARCHAR")
    utc = FunctionExpression("timezone", ConstantExpression("UTC"), value)
    return FunctionExpression("||", utc.cast("VARCHAR"), ConstantExpression("+00"))


def _escaped(text: Expression) -> Expression:
    for character in ("\\", ","):
        text = FunctionExpression("replace", text, ConstantExpression(character), ConstantExpression(f"\\{character}"))
    return text


def with_day(relation: Relation, file: str, before: int) -> Relation:
    """Adds `ds`: the first day or hour after `before` characters of the path in `file`. A filter on it prunes files."""
    rest = FunctionExpression("substr", ColumnExpression(file), ConstantExpression(before + 1))
    day = FunctionExpression("regexp_extract", rest, ConstantExpression(DS.pattern))
    return with_ds(relation, day)


def with_period(relation: Relation, file: str, of: Mapping[str, str | None]) -> Relation:
    """Adds `ds`: what `of` has for the path in column `file`, else NULL."""
    paths, found = (ConstantExpression(list(each)) for each in (of.keys(), of.values()))
    at = FunctionExpression("list_position", paths.cast("VARCHAR[]"), ColumnExpression(file))
    return with_ds(relation, FunctionExpression("list_extract", found.cast("VARCHAR[]"), at))


def with_ds(relation: Relation, ds: Expression) -> Relation:
    """Returns the rows with `ds`, in place of any that they have."""
    others = StarExpression(exclude=[name for name in relation.columns if name.lower() == "ds"])
    return relation.select(others, ds.alias("ds"))
