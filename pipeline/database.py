"""DuckDB connections, and views over explicit lists of files."""

from __future__ import annotations

import atexit
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from itertools import count
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
QUIET = "SET enable_progress_bar = false"
"""Of each connection: the bar would be drawn on stdout, between what programs read there."""
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
            con.execute(QUIET)
            yield con
        finally:
            con.close()


@contextmanager
def workplace(memory_limit: str, threads: int | None) -> Iterator[Connection]:
    """Opens an empty database of its own in the DuckDB instance that this process keeps for such limits.

    Starting an instance takes 25 ms of CPU, which a backfill of many small days would pay several times a day.
    """
    instance = _instance(memory_limit, threads)
    name = f"workplace_{next(_NUMBERS)}"
    with instance.cursor() as other:
        other.execute(f"ATTACH ':memory:' AS {name}")
        cursor = instance.cursor()
        try:
            cursor.execute(QUIET)
            cursor.execute(f"USE {name}")
            yield cursor
        finally:
            cursor.close()  # also ends a reader that an error left open
            other.execute(f"DETACH {name}")


_NUMBERS = count()


@cache
def _instance(memory_limit: str, threads: int | None) -> Connection:
    opened = ExitStack()
    atexit.register(opened.close)
    return opened.enter_context(connection(memory_limit, threads))


def parquet(con: Connection, paths: Sequence[Path | str], *, filename: bool = False) -> Relation:
    """Returns the rows of the files; `key=value` folders become VARCHAR columns. `paths` must not be empty."""
    query = """
        SELECT * FROM read_parquet(
            $paths, hive_partitioning = true, hive_types_autocast = false, union_by_name = true, filename = $filename)
    """
    return con.sql(query, params={"paths": [str(path) for path in paths], "filename": filename})


def rows(con: Connection, paths: Sequence[Path | str]) -> int:
    """Returns the number of rows, as the footers tell it. `paths` must not be empty."""
    query = "SELECT sum(num_rows)::BIGINT FROM parquet_file_metadata($paths)"
    (found,) = con.sql(query, params={"paths": [str(path) for path in paths]}).fetchall()[0]
    return int(found)


def columns_by_file(con: Connection, paths: Sequence[Path | str]) -> dict[str, dict[str, str]]:
    """Returns the DuckDB type of each column, file by file, from the footers.

    Raises UnreadableFile, naming the first damaged file.
    """
    found = {}
    for path in paths:
        try:
            found[str(path)] = schema(parquet(con, [path]))
        except (duckdb.Error, RuntimeError) as error:  # RuntimeError: a column's name is not UTF-8
            raise unreadable(error, path) from error
    return found


def schema(relation: Relation) -> dict[str, str]:
    return {name: str(kind) for name, kind in zip(relation.columns, relation.types, strict=True)}


def empty(con: Connection, columns: Mapping[str, str]) -> Relation:
    """Returns a relation without rows, for what is not there yet: a list of no files cannot be read."""
    constants = [Constant(None).cast(kind).alias(name) for name, kind in columns.items()]
    return con.sql("SELECT 1 AS one").filter(Constant(value=False)).select(*constants)


@contextmanager
def explained(where: object, reads: Sequence[Path | str] = ()) -> Iterator[None]:
    """Turns DuckDB's errors, and those of an Arrow reader over it, into errors that say what to do.

    `reads` are the Parquet files that are read meanwhile: the first damaged one of them is named.
    """
    try:
        yield
    except LakescoreError:
        raise
    except (duckdb.Error, OSError) as error:
        text = str(error)
        if "offload data block" in text or ("No space left on device" in text and isinstance(error, duckdb.Error)):
            raise StorageUnavailable(
                "DuckDB ran out of memory, and of room on the disk that it spills to",
                where=tempfile.gettempdir(),
                got=text.splitlines()[0],
                next_step="free some space there, set TMPDIR to a larger disk, or raise LAKESCORE_MEMORY_LIMIT",
            ) from error
        if (translated := translate(error, where)) is not None:
            raise translated from error
        if (damaged := _first_damaged(reads)) is not None:
            raise unreadable(error, damaged) from error
        if isinstance(error, duckdb.OutOfMemoryException) or "Out of Memory" in text:
            raise StorageUnavailable(
                "DuckDB ran out of memory",
                where=where,
                got=text.splitlines()[0],
                next_step="raise LAKESCORE_MEMORY_LIMIT (or memory_limit in job.toml)",
            ) from error
        if isinstance(error, duckdb.ConversionException) or "Conversion Error" in text:
            raise SchemaMismatch(
                "a value does not have its column's type", where=where, got=text.splitlines()[0]
            ) from error
        if isinstance(error, (duckdb.IOException, duckdb.InvalidInputException, OSError)):
            raise unreadable(error, where) from error
        raise


def _first_damaged(paths: Sequence[Path | str]) -> Path | str | None:
    """Reads file by file, every page: only after an error, since DuckDB's own message may name no file."""
    for path in paths:
        if "://" in str(path):
            continue  # in an object store: what failed may be the network, and a second look costs as much as the first
        try:
            with connection() as con, parquet(con, [path]).to_arrow_reader(100_000) as batches:
                for _ in batches:
                    pass
        except (duckdb.Error, OSError):
            return path
    return None


def unreadable(error: BaseException, where: object) -> UnreadableFile:
    return UnreadableFile(
        "a file cannot be read",
        where=where,
        got=str(error).splitlines()[0],
        next_step="write it again, or move it out of the input; a file is best written elsewhere and then renamed",
    )
