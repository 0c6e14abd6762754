"""DuckDB connections, and views over explicit lists of files."""

from __future__ import annotations

import atexit
import glob
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
from duckdb import ColumnExpression
from duckdb import ConstantExpression as Constant

from pipeline import machine
from pipeline.database.folders import with_partition
from pipeline.database.resources import Resources
from pipeline.errors import (
    IncompleteFile,
    LakescoreError,
    OutOfMemory,
    SchemaMismatch,
    StorageUnavailable,
    UnreadableFile,
)
from pipeline.storage import translate_error, translated_os_errors

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation

CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "python_enable_replacements": "false",
}
WITHOUT_BAR = "SET enable_progress_bar = false"
"""Setting of each connection: the bar would be drawn on stdout, between results that programs read there."""
SETTINGS = (
    "SET GLOBAL TimeZone = 'UTC'",
    "SET GLOBAL disable_parquet_prefetching = true",
    "SET GLOBAL disabled_optimizers = 'statistics_propagation'",
    WITHOUT_BAR,
)
"""Settings of an instance: what a timestamp is as a day or as text must not depend on the machine; and a thread that
reads a whole row group ahead holds 500 MB of 1,000 columns, instead of a page of each, and is no faster on a disk. From
statistics alone, DuckDB would answer that the maximum of any column that can have NaN is NaN (`select_parquet`)."""

MAGIC = b"PAR1"
"""First and last bytes of a Parquet file; in an object store, a file without the last ones is not being written."""
WITHOUT_END = ("No magic bytes found at end of file", "too small to be a Parquet file")

FILE = "__lakescore_file"
RENAMED = re.compile(r"(.+)_\d+")
SCHEMA = "SELECT name, num_children FROM parquet_schema($path) ORDER BY column_id"


@contextmanager
def connect(memory_limit: str = "400MB", threads: int | None = None, file: str = ":memory:") -> Iterator[Connection]:
    """Opens DuckDB with bounded memory; what does not fit spills to a folder that is removed at the end.

    In memory by default. Nothing can reach the network or run an extension's code.
    """
    with tempfile.TemporaryDirectory(prefix="lakescore-") as spill:
        config = CONFIG | {"memory_limit": memory_limit, "temp_directory": spill, "preserve_insertion_order": "false"}
        if threads is not None:
            config["threads"] = str(threads)
        con = duckdb.connect(file, config=config)
        try:
            for setting in SETTINGS:
                con.execute(setting)
            yield con
        finally:
            con.close()


def fit(con: Connection, resources: Resources) -> None:
    """Gives a connection of `connect` other resources: those for the columns that it turns out to read."""
    con.execute(f"SET memory_limit = '{resources.memory_limit}'")
    con.execute(f"SET threads = {resources.threads}")


@contextmanager
def connect_shared(resources: Resources) -> Iterator[Connection]:
    """Opens a new, empty database in the DuckDB instance that this process keeps for these resources.

    Starting an instance takes 25 ms of CPU, which a backfill of many small days would pay several times per day.
    """
    name = f"workplace_{next(_NUMBERS)}"
    try:
        instance = _attached(resources, name)
    except duckdb.FatalException:  # a damaged file has put an end to the instance
        _instance.cache_clear()
        instance = _attached(resources, name)
    cursor = instance.cursor()
    try:
        cursor.execute(WITHOUT_BAR)
        cursor.execute(f"USE {name}")
        yield cursor
    finally:
        cursor.close()  # also ends a reader that an error left open
        with instance.cursor() as other, suppress(duckdb.FatalException):
            other.execute(f"DETACH {name}")


_NUMBERS = count()


def _attached(resources: Resources, name: str) -> Connection:
    """Returns the instance for these resources, with a new, empty database of this name."""
    instance = _instance(resources)
    with instance.cursor() as other:
        other.execute(f"ATTACH ':memory:' AS {name}")
    return instance


@cache
def _instance(resources: Resources) -> Connection:
    opened = ExitStack()
    atexit.register(opened.close)
    return opened.enter_context(connect(resources.memory_limit, resources.threads))


def as_patterns(paths: Iterable[Path | str]) -> list[str]:
    """Returns paths as DuckDB takes them literally: it reads `*`, `?` and `[` in a path as a pattern."""
    return [str(path) if "://" in str(path) else glob.escape(str(path)) for path in paths]


def read_parquet(
    con: Connection,
    paths: Sequence[Path | str],
    *,
    folders: Sequence[str] = (),
    filename: str = "",
    row_number: bool = False,
) -> Relation:
    """Returns the rows of the files, whose columns are matched by name. `paths` must not be empty.

    `folders` names columns that are in the paths of our own files: `job`, `ds`. `filename` names a column for the file
    of each row; `row_number` adds `file_row_number`, its place in that file. Raises SchemaMismatch if names of columns
    in a file are equal, or differ only in case.
    """
    file = (filename or FILE) if folders else filename
    rows = select_parquet(con, paths, "*", filename=file, row_number=row_number)
    check_names(con, rows.columns, paths)
    return with_partition(rows, folders, file, keep_file=bool(filename)) if folders else rows


def select_parquet(
    con: Connection, paths: Sequence[Path | str], columns: str, *, filename: str = "", row_number: bool = False
) -> Relation:
    """Returns the rows of the files, with a select list of `folders.py`.

    `can_have_nan`: statistics in a file leave NaN out, and DuckDB would answer `x > 1` and `max(x)` from them alone.
    """
    query = f"FROM {_files('$paths', '$filename', '$row_number')} SELECT {columns}"
    params = {"paths": as_patterns(paths), "filename": filename or False, "row_number": row_number}
    return con.sql(query, params=params)


def files_as_text(paths: Sequence[Path | str]) -> str:
    """Returns the files as `select_parquet` reads them, for the text of a view, which cannot have parameters."""
    return _files(str(Constant(as_patterns(paths))), "false", "false")


def _files(paths: str, filename: str, row_number: str) -> str:
    return f"""
        read_parquet(
            {paths}, hive_partitioning = false, union_by_name = true, filename = {filename},
            file_row_number = {row_number}, can_have_nan = true)
    """


def create_view(con: Connection, name: str, query: str) -> None:
    """Creates or replaces a view. From a relation, DuckDB would plan the query several times."""
    con.execute(f"CREATE OR REPLACE VIEW {ColumnExpression(name)} AS {query}")


def check_names(con: Connection, columns: Sequence[str], paths: Sequence[Path | str]) -> None:
    """Raises SchemaMismatch if two columns of a file have the same name, or names that differ only in case.

    `columns` are those that DuckDB shows: the second `id` or `ID` of a file as `id_1` or `ID_1`.
    """
    lowered = {name.lower() for name in columns}
    if not any((stem := RENAMED.fullmatch(name.lower())) and stem.group(1) in lowered for name in columns):
        return
    for path in paths:
        rows = con.sql(SCHEMA, params={"path": as_patterns([path])}).fetchall()
        names = _top_level(iter(rows))
        folded = [name.lower() for name in names]
        if twice := [name for name in names if folded.count(name.lower()) > 1]:
            same = twice[0] in twice[1:]
            raise SchemaMismatch(
                f"a file has two columns {twice[0]!r}" if same else "names of columns differ only in case",
                where=path,
                got=", ".join(map(repr, twice)),
                next_step="write the file with different names: upper and lower case count as the same, as in SQL",
            )


def _top_level(rows: Iterator[tuple[str, int | None]]) -> list[str]:
    """Returns the names of a file's columns from its schema, in which each is followed by its children."""
    found = []
    _, columns = next(rows)
    for _ in range(columns or 0):
        name, inside = next(rows)
        found.append(name)
        left = inside or 0
        while left:
            left += (next(rows)[1] or 0) - 1
    return found


def rows_by_file(con: Connection, paths: Sequence[Path | str]) -> dict[str, int]:
    """Returns the number of rows of each file, from the footers. `paths` must not be empty.

    Raises UnreadableFile or IncompleteFile, naming the first damaged file.
    """
    query = "SELECT file_name, num_rows FROM parquet_file_metadata($paths)"

    def counted(some: Sequence[Path | str]) -> dict[str, int]:
        return dict(con.sql(query, params={"paths": as_patterns(some)}).fetchall())

    try:
        return counted(paths)
    except duckdb.Error:
        for path in paths:
            try:
                counted([path])
            except duckdb.Error as error:
                raise damaged_input(error, path) from error
        raise


def count_rows(con: Connection, paths: Sequence[Path | str]) -> int:
    """Returns the number of rows of the files, from their footers. `paths` must not be empty."""
    query = "SELECT sum(num_rows)::BIGINT FROM parquet_file_metadata($paths)"
    (found,) = con.sql(query, params={"paths": as_patterns(paths)}).fetchall()[0]
    return int(found)


def columns_by_file(con: Connection, paths: Sequence[Path | str]) -> dict[str, dict[str, str]]:
    """Returns the DuckDB type of each column, file by file, from the footers.

    Raises UnreadableFile or IncompleteFile, naming the first damaged file.
    """
    found = {}
    for path in paths:
        try:
            found[str(path)] = column_types(read_parquet(con, [path]))
        except (duckdb.Error, RuntimeError) as error:  # RuntimeError: a column's name is not UTF-8
            raise damaged_input(error, path) from error
    return found


def column_types(relation: Relation) -> dict[str, str]:
    return {name: str(kind) for name, kind in zip(relation.columns, relation.types, strict=True)}


def empty_relation(con: Connection, columns: Mapping[str, str]) -> Relation:
    """Returns a relation without rows, in place of files that do not exist yet: DuckDB cannot read an empty list."""
    constants = [Constant(None).cast(kind).alias(name) for name, kind in columns.items()]
    return con.sql("SELECT 1 AS one").filter(Constant(value=False)).select(*constants)


@contextmanager
def translated_errors(where: object, reads: Sequence[Path | str] = ()) -> Iterator[None]:
    """Turns DuckDB's errors, and those of an Arrow reader over it, into errors that say what to do.

    `reads` are the Parquet files that the block reads; the error names the first damaged one.
    """
    try:
        yield
    except LakescoreError:
        raise
    except (duckdb.Error, OSError, MemoryError) as error:
        text = str(error)
        if "offload data block" in text or ("No space left on device" in text and isinstance(error, duckdb.Error)):
            raise StorageUnavailable(
                "DuckDB ran out of memory, and of room on the disk that it spills to",
                where=tempfile.gettempdir(),
                got=text.splitlines()[0],
                next_step="free some space there, set TMPDIR to a larger disk, or raise LAKESCORE_MEMORY_LIMIT",
            ) from error
        if ran_out_of_memory(error):
            raise out_of_memory(error, where) from error
        if (translated := translate_error(error, where)) is not None:
            raise translated from error
        if (refused := machine.out_of_memory(error)) is not None:
            raise refused from error
        if (damaged := _first_damaged(reads)) is not None:  # after memory: it fails for want of memory, too
            raise unreadable_file(error, damaged) from error
        if isinstance(error, duckdb.ConversionException) or "Conversion Error" in text:
            raise SchemaMismatch(
                "a value does not have its column's type", where=where, got=text.splitlines()[0]
            ) from error
        if isinstance(error, (duckdb.IOException, duckdb.InvalidInputException, OSError)):
            raise unreadable_file(error, where) from error
        raise


def _first_damaged(paths: Sequence[Path | str]) -> Path | str | None:
    """Returns the first file that cannot be read. Reads every page: for use after an error that may name no file."""
    for path in paths:
        if "://" in str(path):
            continue  # in an object store: the network may have failed, and reading again costs as much as before
        try:
            with connect() as con, read_parquet(con, [path]).to_arrow_reader(100_000) as batches:
                for _ in batches:
                    pass
        except (duckdb.Error, OSError) as error:
            if not ran_out_of_memory(error):
                return path
    return None


def ran_out_of_memory(error: BaseException) -> bool:
    """Tells whether an error, also that of an Arrow reader over DuckDB, is about DuckDB's memory limit."""
    text = str(error)
    found = isinstance(error, duckdb.OutOfMemoryException) or "Out of Memory Error" in text
    return found and "Allocation failure" not in text  # that is the system's refusal


def out_of_memory(error: BaseException, where: object) -> OutOfMemory:
    return OutOfMemory(
        "DuckDB ran out of memory",
        where=where,
        got=str(error).splitlines()[0],
        next_step="set LAKESCORE_MEMORY_LIMIT (or memory_limit in job.toml) to twice that limit; if the machine has no "
        "more memory, set LAKESCORE_THREADS=1, or read fewer columns",
    )


def damaged_input(error: BaseException, path: Path | str) -> LakescoreError:
    """Returns the error for an input file that DuckDB cannot read: IncompleteFile for a Parquet file without an end."""
    if ran_out_of_memory(error):
        return out_of_memory(error, path)
    if (translated := translate_error(error, path) or machine.out_of_memory(error)) is not None:
        return translated
    if "://" not in str(path) and any(words in str(error) for words in WITHOUT_END):
        with translated_os_errors(path), Path(path).open("rb") as file:
            if MAGIC.startswith(file.read(len(MAGIC))):
                return incomplete_file(path)
    return unreadable_file(error, path)


def incomplete_file(path: Path | str) -> IncompleteFile:
    return IncompleteFile(
        "a file ends too early: it is still being written, or was cut off",
        where=path,
        next_step="try again once it is complete; if it stays as it is, get it again",
    )


def unreadable_file(error: BaseException, where: object) -> UnreadableFile:
    return UnreadableFile(
        "a file cannot be read",
        where=where,
        got=str(error).splitlines()[0],
        next_step="write it again, or move it out of the input; a file is best written elsewhere and then renamed",
    )
