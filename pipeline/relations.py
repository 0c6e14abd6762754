"""Brings rows of different files together: equal columns, and columns of our own."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING

from duckdb import ColumnExpression, ConstantExpression, FunctionExpression, StarExpression

from pipeline import database
from pipeline.reserved import OF_A_MODEL

if TYPE_CHECKING:
    from duckdb import DuckDBPyRelation as Relation
    from duckdb import Expression

NUMBER = re.compile(r"U?(TINY|SMALL|BIG|HUGE)INT|U?INTEGER|FLOAT|DOUBLE|DECIMAL\(.*\)")


def aligned(pieces: Sequence[Relation], fixed: Mapping[str, str]) -> list[Relation]:
    """Gives all relations the same columns in the same order, and those of `fixed` in any case.

    Numbers of different types go together; of any other types that differ, the values become text.
    """
    names: dict[str, str] = {}
    kinds: dict[str, set[str]] = defaultdict(set)
    for piece in pieces:
        for name, kind in database.schema(piece).items():
            names.setdefault(name.lower(), name)
            kinds[name.lower()].add("a number" if NUMBER.fullmatch(kind) else kind)
    names |= {name: name for name in fixed if name not in names}

    def column(name: str, present: set[str]) -> Expression:
        if name not in present:
            return ConstantExpression(None).cast(fixed.get(name, '"NULL"')).alias(names[name])
        value = ColumnExpression(names[name])
        return (value.cast("VARCHAR") if len(kinds[name]) > 1 else value).alias(names[name])

    found = []
    for piece in pieces:
        present = {name.lower() for name in piece.columns}
        found.append(piece.select(*(column(name, present) for name in names)))
    return found


def union(pieces: Sequence[Relation]) -> Relation:
    return reduce(lambda left, right: left.union(right), pieces)


def with_key_text(relation: Relation, key: Sequence[str], ours: Collection[str]) -> Relation:
    r"""Adds the key as people write it, `key_text`: several columns joined by commas; a comma within one is `\,`.

    A key that no run record tells is taken to be all columns that are not ours.
    """
    names = [name for name in key if name in relation.columns]
    names = names or [name for name in relation.columns if name not in ours and not OF_A_MODEL.fullmatch(name)]
    texts = [ColumnExpression(name).cast("VARCHAR") for name in names]
    if len(texts) > 1:
        texts = [FunctionExpression("concat_ws", ConstantExpression(","), *map(_escaped, texts))]
    return relation.select(StarExpression(), texts[0].alias("key_text"))


def _escaped(text: Expression) -> Expression:
    for character in ("\\", ","):
        text = FunctionExpression("replace", text, ConstantExpression(character), ConstantExpression(f"\\{character}"))
    return text


def with_day(relation: Relation, file: str, before: int) -> Relation:
    """Adds `ds`: the first day in the path, column `file`, after `before` characters. A filter on it prunes files."""
    rest = FunctionExpression("substr", ColumnExpression(file), ConstantExpression(before + 1))
    day = FunctionExpression("regexp_extract", rest, ConstantExpression(r"\d{4}-\d{2}-\d{2}"))
    others = StarExpression(exclude=[name for name in relation.columns if name.lower() == "ds"])
    return relation.select(others, day.alias("ds"))
