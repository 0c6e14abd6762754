"""Keys in SQL: one value a row, `__key`, whatever it is made of; and the types under which keys are stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from duckdb import CaseExpression, ColumnExpression, ConstantExpression, FunctionExpression

from pipeline.errors import SchemaMismatch

if TYPE_CHECKING:
    from duckdb import Expression

INTEGERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"}
KEY_TYPES = {"BIGINT", "UBIGINT", "VARCHAR", "DATE", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "BOOLEAN"}


def key_expression(key: Sequence[str], types: Mapping[str, str]) -> Expression:
    """Returns the key as one value: the column itself, or a tuple that is NULL if any of its columns is."""
    columns = [ColumnExpression(name).cast(canonical(types[name])) for name in key]
    if len(columns) == 1:
        return columns[0]
    missing = columns[0].isnull()
    for column in columns[1:]:
        missing = missing | column.isnull()
    return CaseExpression(missing, ConstantExpression(None)).otherwise(FunctionExpression("row", *columns))


def canonical(kind: str) -> str:
    """Returns the type under which a key is stored: integers of any width are one type, and so is text."""
    if kind in INTEGERS:
        return "BIGINT"
    return "VARCHAR" if kind.startswith("ENUM") or kind == "UUID" else kind


def feature_type(kind: str) -> str:
    """Returns the type as which a feature is read: what numpy knows no type for becomes DOUBLE."""
    return "DOUBLE" if kind.startswith("DECIMAL") or kind.endswith("HUGEINT") else kind


def check_stored_key(key: Sequence[str], now: Mapping[str, str], stored: Mapping[str, str], where: object) -> None:
    """Raises SchemaMismatch if stored predictions have another key than the job has now."""
    check_same_key(key, now, stored, "the stored predictions have another key than the job", where)


def check_same_key(
    key: Sequence[str], now: Mapping[str, str], before: Mapping[str, str], what: str, where: object
) -> None:
    """Raises SchemaMismatch, saying `what`, if the key's columns are absent `before` or had other types."""
    expected = {name: canonical(before[name]) for name in key if name in before}
    got = {name: canonical(now[name]) for name in key}
    if expected != got:
        raise SchemaMismatch(
            what,
            where=where,
            expected=", ".join(f"{name} {kind}" for name, kind in expected.items()) or f"the columns {', '.join(key)}",
            got=", ".join(f"{name} {kind}" for name, kind in got.items()),
            next_step="correct the input, or cast the key in the job's SELECT; a job with another key needs a new name",
        )
