"""DuckDB connections, and views over explicit lists of files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
from duckdb import ConstantExpression as Constant

from pipeline.errors import LakescoreError, SchemaMismatch, StorageUnavailable, UnreadableFile
from pipeline.storage import translate

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation

CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",
}
HIVE_TYPES = {"job": "VARCHAR", "ds": "VARCHAR", "model_version": "VARCHAR"}


@contextmanager
def connection(memory_limit: str = "400MB", threads: int | None = None, file: str = ":memory:") -> Iterator[Connection]:
    """Opens DuckDB with bounded memory; what does not fit spills to a folder that is removed at the end.

    An in-memory database, and nothing that could reach the network or run code of an extension.
    """
    with tempfile.TemporaryDirectory(prefix="lakescore-") as spill:
        config = CONFIG | {"memory_limit": memory_limit, "temp_directory": spill, "preserve_insertion_order": "false"}
        if threads is not None:
            config["threads"] = str(threads)
        con = duckdb.connect(file, config=config)
        try:
            yield con
        finally:
            con.close()


def parquet(con: Connection, paths: Sequence[Path | str], *, filename: bool = False) -> Relation:
    """Returns the rows of the files; `key=value` folders become VARCHAR columns. `paths` must not be empty."""
    query = """
        SELECT * FROM read_parquet(
            $paths, hive_partitioning = true, hive_types_autocast = false, union_by_name = true, filename = $filename)
    """
    return con.sql(query, params={"paths": [str(path) for path in paths], "filename": filename})


def json_records(con: Connection, paths: Sequence[Path | str], columns: dict[str, str]) -> Relation:
    """Returns one row a file, with the named columns and types; other keys are passed over."""
    query = "SELECT * FROM read_json($paths, columns = $columns, format = 'unstructured')"
    return con.sql(query, params={"paths": [str(path) for path in paths], "columns": columns})


def columns_by_file(con: Connection, paths: Sequence[Path | str]) -> dict[str, dict[str, str]]:
    """Returns the DuckDB type of each column, file by file, from the footers.

    Raises UnreadableFile, naming the first damaged file.
    """
    found = {}
    for path in paths:
        try:
            found[str(path)] = schema(parquet(con, [path]))
        except duckdb.Error as error:
            raise unreadable(error, path) from error
    return found


def schema(relation: Relation) -> dict[str, str]:
    return {name: str(kind) for name, kind in zip(relation.columns, relation.types, strict=True)}


def empty(con: Connection, columns: Mapping[str, str]) -> Relation:
    """Returns a relation without rows, for what is not there yet: a list of no files cannot be read."""
    constants = [Constant(None).cast(kind).alias(name) for name, kind in columns.items()]
    return con.sql("SELECT 1 AS one").filter(Constant(value=False)).select(*constants)


@contextmanager
def explained(where: object) -> Iterator[None]:
    """Turns DuckDB's errors, and those of an Arrow reader over it, into errors that say what to do."""
    try:
        yield
    except LakescoreError:
        raise
    except (duckdb.Error, OSError) as error:
        if (translated := translate(error, where)) is not None:
            raise translated from error
        text = str(error)
        if isinstance(error, duckdb.OutOfMemoryException) or "Out of Memory" in text:
            raise StorageUnavailable(
                "DuckDB ran out of memory",
                where=where,
                got=text.splitlines()[0],
                next_step="raise LAKESCORE_MEMORY_LIMIT (or memory_limit in job.toml)",
            ) from error
        if isinstance(error, duckdb.ConversionException) or "Conversion Error" in text:
            raise SchemaMismatch("a value does not have its column's type", where=where, got=text) from error
        if isinstance(error, (duckdb.IOException, duckdb.InvalidInputException, OSError)):
            raise unreadable(error, where) from error
        raise


def unreadable(error: BaseException, where: object) -> UnreadableFile:
    return UnreadableFile(
        "a Parquet file cannot be read",
        where=where,
        got=str(error).splitlines()[0],
        next_step="write it again, or move it out of the input; a file is best written elsewhere and then renamed",
    )
