"""Files that give a column different types of numbers: one that is read as floating-point must lose no digits by it.

DuckDB reads a column that is BIGINT in one file and DOUBLE in another as DOUBLE, so 9007199254740993 becomes
9007199254740992; INTEGER beside FLOAT becomes FLOAT, and 16777217 becomes 16777216.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from duckdb import ColumnExpression, SQLExpression

from pipeline.database.connection import column_types, read_parquet
from pipeline.errors import SchemaMismatch

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

EXACT = re.compile(r"U?(TINY|SMALL|BIG|HUGE)INT|U?INTEGER|DECIMAL\(.*\)")
FLOATING = ("FLOAT", "DOUBLE")


def check_widened(
    con: Connection, files: Mapping[str, Mapping[str, str]], names: Collection[str] | None = None
) -> None:
    """Raises SchemaMismatch if reading the files together would round a number; `files` maps each to its types.

    Reads the values of a column only if the files differ in its type. `names` limits the columns that are checked.
    """
    for name in {name for types in files.values() for name in types} if names is None else names:
        kinds = {path: types[name] for path, types in files.items() if name in types}
        exact = [path for path, kind in kinds.items() if EXACT.fullmatch(kind)]
        if not exact or not set(FLOATING) & set(kinds.values()):
            continue
        together = column_types(read_parquet(con, list(kinds)).select(ColumnExpression(name)))[name]
        if together not in FLOATING:
            continue
        for path in exact:
            value = str(ColumnExpression(name))
            changes = SQLExpression(f"TRY_CAST({value}::{together} AS {kinds[path]}) IS DISTINCT FROM {value}")
            if read_parquet(con, [path]).filter(changes).limit(1).fetchall():
                other = next(path for path, kind in kinds.items() if kind in FLOATING)
                raise SchemaMismatch(
                    f"column {name} has numbers that another file's type would round",
                    where=path,
                    expected=f"{kinds[path]} in all files, or text",
                    got=f"{kinds[other]} in {other}",
                    next_step="write the column with one type in all files",
                )
