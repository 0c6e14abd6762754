"""Columns whose values are in the names of folders: `.../ds=2026-01-01/seg=EU/a.parquet`.

DuckDB's own Hive partitioning takes every `name=value` folder of the whole path, the first one of a name, and puts it
in place of the file's column. Here the caller names the columns, and the last folder of that name counts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from duckdb import CaseExpression as Case
from duckdb import ColumnExpression as Column
from duckdb import ConstantExpression as Constant
from duckdb import FunctionExpression as Function

if TYPE_CHECKING:
    from duckdb import DuckDBPyRelation as Relation
    from duckdb import Expression

NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
"""What Hive, Spark and others write for NULL."""


def partition_value(name: str, file: str) -> Expression:
    """Returns the value of `name` in the path in column `file`, for a path that Lakescore wrote: it has the folder."""
    return Function("regexp_extract", Column(file), _pattern(name), Constant(1))


def folder_value(name: str, file: str) -> Expression:
    """Returns the value of `name` in the path in column `file`: text, percent-decoded; NULL without such a folder."""
    value = Function("url_decode", partition_value(name, file))
    given = Function("regexp_matches", Column(file), _pattern(name)) & (value != Constant(NO_VALUE))
    return Case(given, value)


def _pattern(name: str) -> Expression:
    return Constant(rf"(?s)^.*/{re.escape(name)}=([^/]*)/")


def with_partition(rows: Relation, names: Sequence[str], file: str, *, keep_file: bool) -> Relation:
    """Returns the rows with columns for the folders that Lakescore writes."""
    kept = [Column(name) for name in rows.columns if keep_file or name != file]
    return rows.select(*kept, *(partition_value(name, file).alias(name) for name in names))


def select_list(columns: Sequence[str], names: Sequence[str], file: str, *, keep_file: bool) -> str:
    """Returns the text of a select list: the columns of files, and those of folders, in place of any of the same name.

    It must select directly from the files: through another projection, DuckDB does not use a filter on such a column to
    leave out files.
    """
    replaced = {name.lower() for name in names} | (set() if keep_file else {file.lower()})
    hidden = [str(Column(name)) for name in columns if name.lower() in replaced]
    every = f"* EXCLUDE ({', '.join(hidden)})" if hidden else "*"
    return ", ".join([every, *(f"{folder_value(name, file)} AS {Column(name)}" for name in names)])
