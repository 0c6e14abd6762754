"""Rows as spreadsheets can take them: flat, and without texts that would be computed as formulas."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import TYPE_CHECKING

from duckdb import CaseExpression, ColumnExpression, ConstantExpression, FunctionExpression

from pipeline.errors import QueryRefused

if TYPE_CHECKING:
    from duckdb import DuckDBPyRelation as Relation

FORMULA = "^[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]"
"""The beginnings of a text that spreadsheets compute, those of full width included."""
KEY_LOOKS_LIKE_A_FORMULA = "a key looks like a formula: "

FLAT = re.compile(
    r"U?(TINY|SMALL|BIG|HUGE)INT|U?INTEGER|FLOAT|DOUBLE|DECIMAL\(.*\)|BOOLEAN|VARCHAR|JSON|UUID|DATE|TIME(STAMP.*)?|\"NULL\""
)


def flat(rows: Relation) -> Relation:
    """Returns the same rows, with values other than numbers, text and times (such as lists) written as text."""
    columns = []
    for name, kind in zip(rows.columns, rows.types, strict=True):
        value = ColumnExpression(name)
        columns.append((value if FLAT.fullmatch(str(kind)) else value.cast("VARCHAR")).alias(name))
    return rows.select(*columns)


def spreadsheet_safe(rows: Relation, keys: Collection[str]) -> Relation:
    """Returns the same rows with an apostrophe before each text that a spreadsheet would take for a formula.

    The columns `keys` stay as they are: a text in one of them that looks like a formula ends the query with an error,
    of which `formula_in_key` makes a QueryRefused. Changed, it would no longer be that row's key.
    """
    columns = []
    for name, kind in zip(rows.columns, rows.types, strict=True):
        column = ColumnExpression(name)
        if str(kind) in ("VARCHAR", "JSON"):
            formula = FunctionExpression("regexp_matches", column, ConstantExpression(FORMULA))
            if name in keys:
                message = ConstantExpression(f"{KEY_LOOKS_LIKE_A_FORMULA}{name}")
                error = FunctionExpression("error", message).cast("VARCHAR")
                column = CaseExpression(formula, error).otherwise(column)
            else:
                quoted = FunctionExpression("concat", ConstantExpression("'"), column)
                column = CaseExpression(formula, quoted).otherwise(column)
        columns.append(column.alias(f"'{name}" if re.match(FORMULA, name) else name))
    return rows.select(*columns)


def formula_in_key(text: str, option: str = "--spreadsheet-safe") -> QueryRefused | None:
    """Returns the error about a key that looks like a formula, if that is what DuckDB's error text says."""
    if KEY_LOOKS_LIKE_A_FORMULA not in text:
        return None
    return QueryRefused(
        "a key looks like a formula, and an apostrophe before it would make it another key",
        where=f"column {text.partition(KEY_LOOKS_LIKE_A_FORMULA)[2].splitlines()[0]}",
        next_step=f"leave out that column, or {option}; then open the file in no spreadsheet",
    )
