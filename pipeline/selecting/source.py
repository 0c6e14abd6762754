"""The rows of one source of a job: its files, and the columns that the names of their folders give.

A folder `name=value` becomes a column, as text, if it lies below the part of the pattern that has no wildcard and no
`{ds}`, where every file has such a folder. A folder that the pattern spells out before that becomes one, too, if the
files have no such column. Folders above, in which the lake happens to lie, never do.

Where a file has a column of the same name, the job would have to know which of the two is meant: if the pattern or the
job names the column, both must say the same; if neither does, the file's column stands.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

import duckdb
from duckdb import ColumnExpression as Column
from duckdb import ConstantExpression as Constant
from duckdb import DuckDBPyConnection as Connection
from duckdb import DuckDBPyRelation as Relation
from duckdb import FunctionExpression as Function
from duckdb import StarExpression

from pipeline.database.connection import (
    column_types,
    columns_by_file,
    read_parquet,
    rows_by_file,
    select_parquet,
)
from pipeline.database.folders import folder_value, select_list
from pipeline.errors import InputError, SchemaMismatch, UnreadableFile
from pipeline.job.config import Job
from pipeline.lake.layout import Lake
from pipeline.records import FileInfo

FILE = "__lakescore_file"
ICEBERG = "metadata"
TABLES = {"_delta_log": "Delta", ".hoodie": "Hudi", ICEBERG: "Iceberg"}
"""Formats of tables by a folder in the table's root."""
VARIABLE = re.compile(r"[*?\[{]")


class Folders(NamedTuple):
    """The columns that folders give."""

    names: tuple[str, ...]
    compared: tuple[str, ...]
    """Those of them that the files have, too; the values must be equal."""


def rows_of(
    con: Connection,
    lake: Lake,
    job: Job,
    source: str,
    files: Sequence[FileInfo],
    features: Sequence[str] = (),
    *,
    filename: str = "",
    row_number: bool = False,
) -> Relation:
    """Returns the rows of a source's files. Files without rows are left out: their columns may have any type.

    `features` are those of the model, if the job does not name them. Raises UnreadableFile, IncompleteFile or
    SchemaMismatch.
    """
    paths = [lake.storage.where(file.path) for file in files]
    if source in job.input.text:  # its copies have the columns of the folders already
        return read_parquet(con, paths, filename=filename, row_number=row_number)
    try:
        if len(paths) > 1:
            rows = rows_by_file(con, paths)
            paths = [path for path in paths if rows[path]] or paths
        found = read_parquet(con, paths, filename=filename or FILE, row_number=row_number)
    except (duckdb.Error, RuntimeError):
        columns_by_file(con, paths)  # names the first file that cannot be read
        raise
    names, compared = folders_of(job, source, files, found.columns, features)
    for name in compared:
        check_equal(found, name, filename or FILE, job.input.patterns[source])
    columns = select_list(found.columns, names, filename or FILE, keep_file=bool(filename))
    return select_parquet(con, paths, columns, filename=filename or FILE, row_number=row_number)


def folders_of(
    job: Job, source: str, files: Sequence[FileInfo], columns: Collection[str], features: Sequence[str] = ()
) -> Folders:
    """Returns which folders of a source's files are columns; `columns` are those in the files.

    Raises SchemaMismatch if the pattern or the job names a column that only some of the files have a folder for, or
    UnreadableFile for a folder whose value is not text.
    """
    pattern = job.input.patterns[source]
    steps = _steps(pattern)
    fixed = _fixed(steps)
    below = [_named(_steps(file.path)[fixed:-1], file) for file in files]
    held = {name.lower() for name in columns}
    spoken = _spoken(job, steps, features)
    names, compared = [], []
    for name in dict.fromkeys(name for each in below for name in each):
        everywhere = all(name in each for each in below)
        if name.lower() in spoken:
            if not everywhere:
                raise SchemaMismatch(
                    f"some of the files lie in a folder {name}=..., others do not",
                    where=pattern,
                    got=next(file.path for file, each in zip(files, below, strict=True) if name not in each),
                    next_step="write all files in such folders, or move the others away",
                )
            names.append(name)
            compared += [name] if name.lower() in held else []
        elif everywhere and name.lower() not in held:
            names.append(name)
    taken = held | {name.lower() for name in names} | {"ds"}  # a folder ds=... before {ds} is not the day
    names += [name for name in _named(steps[:fixed], None) if name.lower() not in taken]
    return Folders(tuple(names), tuple(compared))


def with_folders(
    rows: Relation, lake: Lake, job: Job, source: str, files: Sequence[FileInfo], features: Sequence[str] = ()
) -> Relation:
    """Returns the rows of text files with the columns that their folders give.

    Raises SchemaMismatch if the folders of the files give different values: which row is of which file is not known.
    """
    names, compared = folders_of(job, source, files, rows.columns, features)
    if not names:
        return rows
    values = {file.path: _named(_steps(file.path)[:-1], file) for file in files}
    first = values[files[0].path]
    for path, each in values.items():
        if other := next((name for name in names if each.get(name) != first.get(name)), None):
            raise SchemaMismatch(
                f"text files of one {job.grain} lie in different folders {other}=...",
                where=job.input.patterns[source],
                got=f"{files[0].path} and {path}",
                next_step=f"write {other} as a column of the files, or write them as Parquet",
            )
    placed = rows.select(StarExpression(), Constant(lake.storage.where(files[0].path)).alias(FILE))
    for name in compared:
        check_equal(placed, name, FILE, job.input.patterns[source])
    replaced = {name.lower() for name in names}
    kept = [Column(name) for name in rows.columns if name.lower() not in replaced]
    return placed.select(*kept, *(folder_value(name, FILE).alias(name) for name in names))


def check_no_table(lake: Lake, pattern: str, files: Sequence[FileInfo]) -> None:
    """Raises InputError if files belong to a table of Delta, Iceberg or Hudi: most of them may be out of date.

    Looks in the folders of the files, from the last one that the pattern spells out, or the table's root above that.
    """
    steps = _steps(pattern)
    top = _fixed(steps)
    while top and ("=" in steps[top - 1] or steps[top - 1] == "data"):
        top -= 1
    paths = [_steps(file.path) for file in files]
    for folder in sorted({"/".join(path[:depth]) for path in paths for depth in range(top, len(path))}):
        for name in lake.storage.folders(folder):
            if (kind := TABLES.get(name)) and (name != ICEBERG or _has_metadata(lake, folder)):
                raise InputError(
                    f"the files belong to a table of {kind}, and only its own log says which of them are current",
                    where=lake.storage.where(f"{folder}/{name}" if folder else name),
                    next_step="write the table's current rows as plain Parquet files, and let the job read these",
                )


def _has_metadata(lake: Lake, folder: str) -> bool:
    prefix = f"{folder}/{ICEBERG}" if folder else ICEBERG
    return any(file.path.endswith(".metadata.json") for file in lake.storage.files(prefix))


def _steps(path: str) -> list[str]:
    return (path if "://" in path else str(PurePosixPath(path))).split("/")


def _fixed(steps: Sequence[str]) -> int:
    """Returns the number of steps of a pattern before the first that varies."""
    return next((number for number, step in enumerate(steps) if VARIABLE.search(step)), len(steps))


def _spoken(job: Job, steps: Sequence[str], features: Sequence[str]) -> set[str]:
    """Returns the names, in lower case, that the pattern's folders and the job name."""
    named = [step.partition("=")[0] for step in steps[:-1] if "=" in step]
    words = re.findall(r"\w+", job.select_text or "")
    used = (*job.input.key, *job.input.carry, *(job.input.features or ()), *features)
    return {name.lower() for name in (*named, *words, *used)}


def _named(folders: Sequence[str], file: FileInfo | None) -> dict[str, str]:
    """Returns value by name of the folders `name=value`. Raises UnreadableFile if a value is not text."""
    found: dict[str, str] = {}
    for folder in folders:
        name, equals, value = folder.partition("=")
        if not name or not equals:
            continue
        try:
            found[name] = unquote_to_bytes(value).decode("utf-8")
        except UnicodeError:
            raise UnreadableFile(
                "the name of a folder is not text in UTF-8",
                where=file.path if file else folder,
                got=ascii(folder),
                next_step="rename the folder",
            ) from None
    return found


def check_equal(rows: Relation, name: str, file: str, pattern: str) -> None:
    """Raises SchemaMismatch if the column of the files and the folder's value differ in any row."""
    kind = next(kind for column, kind in column_types(rows).items() if column.lower() == name.lower())
    of_folder, in_file = Function("try", folder_value(name, file).cast(kind)), Column(name)
    one_is_null = (in_file.isnull() & of_folder.isnotnull()) | (in_file.isnotnull() & of_folder.isnull())
    if rows.filter((in_file != of_folder) | one_is_null).limit(1).fetchall():
        raise SchemaMismatch(
            f"column {name!r} of a file differs from the folder {name}=... in which the file lies",
            where=pattern,
            expected="a value that is in one place, or the same in both",
            next_step="rename the column, or write the file without it",
        )
