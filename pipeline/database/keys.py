"""Keys in SQL: one value per row, `__key`, for any number of key columns; and the types in which keys are stored."""

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
    """Returns the type in which a key is stored: BIGINT for all integers but UBIGINT, VARCHAR for ENUM and UUID too."""
    if kind in INTEGERS:
        return "BIGINT"
    return "VARCHAR" if kind.startswith("ENUM") or kind == "UUID" else kind


def feature_type(kind: str) -> str:
    """Returns the type in which a feature is read: types without an equivalent in numpy become DOUBLE."""
    return "DOUBLE" if kind.startswith("DECIMAL") or kind.endswith("HUGEINT") else kind


CORRECT_KEY = "correct the input, or cast the key in the job's SELECT; a job with another key needs a new name"


def check_stored_key(
    key: Sequence[str],
    now: Mapping[str, str],
    stored: Mapping[str, str],
    where: object,
    next_step: str = CORRECT_KEY,
) -> None:
    """Raises SchemaMismatch if the key of stored predictions differs from the job's."""
    check_same_key(key, now, stored, "the stored predictions have another key than the job", where, next_step)


def check_same_key(
    key: Sequence[str],
    now: Mapping[str, str],
    before: Mapping[str, str],
    what: str,
    where: object,
    next_step: str = CORRECT_KEY,
) -> None:
    """Raises SchemaMismatch with the message `what` if a key column is not in `before`, or has another type there."""
    expected = {name: canonical(before[name]) for name in key if name in before}
    got = {name: canonical(now[name]) for name in key}
    if expected != got:
        raise SchemaMismatch(
            what,
            where=where,
            expected=", ".join(f"{name} {kind}" for name, kind in expected.items()) or f"the columns {', '.join(key)}",
            got=", ".join(f"{name} {kind}" for name, kind in got.items()),
            next_step=next_step,
        )
