"""Opens the files of others as one DuckDB relation, with types that hold for every row of every file."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
from duckdb import CaseExpression as Case
from duckdb import ColumnExpression as Column
from duckdb import ConstantExpression as Constant
from duckdb import FunctionExpression as Function

from pipeline import database
from pipeline.errors import InputError, InputMissing, LakescoreError, SchemaMismatch, UnreadableFile, UsageError, nearest
from pipeline.ingest import delimited, jsonlines

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation
    from duckdb import Expression

INTEGERS = {f"{sign}{size}" for sign in ("", "U") for size in ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")}
TYPES = {"BOOLEAN", "FLOAT", "DOUBLE", "VARCHAR", "DATE", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE"} | (
    INTEGERS - {"HUGEINT", "UHUGEINT"}
)
REFUSED = "not of the type given: "
NOT_STORED = re.compile(r"INTERVAL|BIT|JSON|UUID|ENUM\(.*|TIME WITH TIME ZONE|\"?NULL\"?")
"""Types that become text: neither Parquet nor our readers have a plain equal."""
EXACT = 2.0**53
"""Beyond it a double no longer tells neighbouring whole numbers apart."""


class Kind(StrEnum):
    csv = "CSV"
    json = "JSON lines"
    parquet = "Parquet"


SUFFIXES = {
    ".csv": Kind.csv,
    ".tsv": Kind.csv,
    ".jsonl": Kind.json,
    ".ndjson": Kind.json,
    ".json": Kind.json,
    ".parquet": Kind.parquet,
}
COMPRESSED = {".gz", ".zst"}


def check_files(files: Sequence[Path]) -> Kind:
    """Returns the kind that all files have, by their suffixes.

    One kind, since each has its own types: an import has one schema. Raises InputMissing, InputError or UsageError.
    """
    if not files:
        raise UsageError("no file is given", expected="one or more files", next_step="lakescore import FILES --date D")
    seen: dict[tuple[int, int], Path] = {}
    kinds = {_check_file(file, seen): file for file in files}
    if len(kinds) > 1:
        raise UsageError(
            "files of different kinds cannot be imported together",
            got=", ".join(f"{file.name} ({kind})" for kind, file in kinds.items()),
            next_step="import each kind on its own, the second with --append",
        )
    return next(iter(kinds))


def _check_file(file: Path, seen: dict[tuple[int, int], Path]) -> Kind:
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    kind = SUFFIXES.get(suffixes[-1] if suffixes else "")
    if not file.exists():
        raise InputMissing("there is no such file", where=file)
    if file.is_dir():
        raise UsageError("this is a folder", where=file, expected="files", next_step=f"{file}/*.parquet, for example")
    if kind is None or (kind is Kind.parquet and file.suffix.lower() in COMPRESSED):
        raise UsageError(
            "a file's suffix does not say what it holds",
            where=file,
            expected=", ".join(SUFFIXES) + "; all but .parquet may be compressed (.gz, .zst)",
            got=file.suffix or "no suffix",
        )
    with database.explained(file):
        stat = file.stat()
    if stat.st_size == 0:
        raise InputError("the file is empty", where=file)
    if (first := seen.setdefault((stat.st_dev, stat.st_ino), file)) is not file:
        raise UsageError("one file is given twice", where=file, got=None if first == file else f"the same as {first}")
    return kind


def parse_types(texts: Sequence[str]) -> dict[str, str]:
    """Parses `id=VARCHAR,age=INTEGER` into DuckDB's type by column. Raises UsageError."""
    types = {}
    for part in [part for text in texts for part in re.split(r",(?![^(]*\))", text)]:
        name, _, text = part.rpartition("=")
        try:
            kind = str(duckdb.sqltype(text.strip()))
        except duckdb.Error:
            kind = ""
        if not name.strip() or not (kind in TYPES or kind.startswith("DECIMAL(")):
            raise UsageError(
                f"{part!r} does not give a column its type",
                expected=f"COLUMN=TYPE with one of {', '.join(sorted(TYPES))}, DECIMAL(18,3)",
            )
        types[name.strip()] = kind
    return types


def read(con: Connection, kind: Kind, files: Sequence[Path], types: Mapping[str, str]) -> Relation:
    """Returns the rows of all files. `types` replace those that were found.

    Raises SchemaMismatch if the files have not the same columns, UsageError if `types` names a column that is not there.
    """
    # DuckDB takes a path for a pattern; a file may well be called `data [1].csv`.
    paths = [glob.escape(str(file.absolute())) for file in files]
    as_text = {name for name, type_ in types.items() if type_ == "VARCHAR"}
    if kind is Kind.csv:
        headers = {file: delimited.header(file) for file in files}
        same_columns({file: [*header.names, f"(delimiter {header.delimiter!r})"] for file, header in headers.items()})
        rows = delimited.read(con, paths, headers[files[0]], as_text)
    elif kind is Kind.json:
        rows = jsonlines.read(con, paths, as_text)
    else:
        rows = _parquet(con, files, paths)
    found = database.schema(rows)
    if unknown := sorted(set(types) - set(found)):
        raise UsageError(
            f"--types names a column that is not there: {unknown[0]!r}{nearest(unknown[0], list(found))}",
            expected=", ".join(found),
        )
    return rows.select(*(_column(name, type_, types.get(name)) for name, type_ in found.items()))


def _parquet(con: Connection, files: Sequence[Path], paths: Sequence[str]) -> Relation:
    # Without hive_partitioning = false a folder called `ds=...` would add a column, or replace the file's own.
    query = "SELECT * FROM read_parquet($paths, hive_partitioning = false, union_by_name = true)"
    columns = {}
    for file, path in zip(files, paths, strict=True):
        try:
            columns[file] = con.sql(query, params={"paths": [path]}).columns
        except duckdb.Error as error:
            raise database.unreadable(error, file) from error
    same_columns(columns)
    return con.sql(query, params={"paths": paths})


def same_columns(columns: Mapping[Path, Sequence[str]]) -> None:
    """Raises SchemaMismatch if the files have not the same columns: NULL would silently stand for what one lacks."""
    first, *others = columns
    for file in others:
        mine, theirs = columns[first], columns[file]
        if set(mine) != set(theirs) or (ordered and list(mine) != list(theirs)):
            raise SchemaMismatch(
                "the files have not the same columns",
                where=file,
                expected=f"{', '.join(mine)} (as in {first.name})",
                got=", ".join(theirs),
                next_step="import them one after the other, with --append",
            )


def _column(name: str, found: str, wanted: str | None) -> Expression:
    """Returns the column in its stored type; a value that does not have the type wanted stops the reading."""
    column = Column(name)
    if wanted is None:
        return (column.cast("VARCHAR") if NOT_STORED.fullmatch(found) else column).alias(name)
    value = Function("try", column.cast(wanted))
    lost = value.isnull()
    if wanted in INTEGERS and found not in INTEGERS:
        lost |= ~_is_whole(column, found)  # a plain cast makes 32 of 31.7 without a word
    refusal = Function("error", Constant(f"{REFUSED}{name!r} {wanted}"))
    return Case(column.isnotnull() & lost, refusal).otherwise(value).alias(name)


def _is_whole(column: Expression, found: str) -> Expression:
    if found == "VARCHAR":
        return Function("regexp_full_match", column, Constant(r" *[-+]?\d+(\.0*)? *"))
    number = column.cast("DOUBLE")
    return (Function("round", number) == number) & (Function("abs", number) < Constant(EXACT))


@contextmanager
def explained(kind: Kind, files: Sequence[Path]) -> Iterator[None]:
    """Turns DuckDB's errors into ours. They quote what they could not read: ours give file and line, and no content."""
    where = files[0] if len(files) == 1 else f"{len(files)} files, from {files[0]}"
    try:
        yield
    except LakescoreError:
        raise
    except (duckdb.Error, OSError) as error:
        text = str(error)
        if explanation := delimited.explain(text) or jsonlines.explain(text):
            raise explanation from None
        if refused := re.search(rf"{REFUSED}('.*'|\".*\") (.*)", text):
            column, wanted = refused.groups()
            raise SchemaMismatch(f"a value of {column} is not {wanted}", where=where, next_step="see --types") from None
        if "Conversion Error" in text:
            raise SchemaMismatch("a value does not have its column's type", where=where, next_step="see --types") from None
        if kind is not Kind.parquet and re.search("GZIP|ZSTD|compress", text, re.IGNORECASE):
            raise UnreadableFile(f"a compressed {kind} file is damaged", where=where, got=text.splitlines()[0]) from None
        with database.explained(where):
            raise
