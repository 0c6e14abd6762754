"""Opens the files of others as one DuckDB relation, with types that hold for every row of every file."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
from duckdb import CaseExpression as Case
from duckdb import ColumnExpression as Column
from duckdb import ConstantExpression as Constant
from duckdb import FunctionExpression as Function

from pipeline import database
from pipeline.errors import (
    InputError,
    InputMissing,
    LakescoreError,
    SchemaMismatch,
    UnreadableFile,
    UsageError,
    nearest,
)
from pipeline.ingest import delimited, jsonlines

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation
    from duckdb import Expression


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
WHOLE = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT"}
TYPES = WHOLE | {"BOOLEAN", "FLOAT", "DOUBLE", "VARCHAR", "DATE", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE"}
NOT_STORED = re.compile(r"INTERVAL|BIT|JSON|UUID|ENUM\(.*|TIME WITH TIME ZONE|\"?NULL\"?")
"""Types without a plain equal in Parquet; such columns are stored as text."""
EXACT = 2.0**53
"""Beyond it a double no longer tells neighbouring whole numbers apart."""
REFUSED = "not of the type given: "


@dataclass(frozen=True)
class Files:
    """What to import: files of one kind, since each kind has types of its own, and an import has one schema.

    `types` are DuckDB's by column; they go before those that were found. Made by `find`.
    """

    kind: Kind
    paths: tuple[Path, ...]
    types: Mapping[str, str]

    def __str__(self) -> str:
        first, *others = self.paths
        return f"{first} and {len(others)} more" if others else str(first)


def find(paths: Sequence[Path], types: Sequence[str] = ()) -> Files:
    """Looks at the files from outside; `types` are texts like `id=VARCHAR,age=INTEGER`.

    Raises InputMissing, InputError for an empty file, and UsageError for what cannot be meant.
    """
    if not paths:
        raise UsageError("no file is given", next_step="lakescore import FILES --date D")
    kinds = {_kind(path): path for path in paths}
    if len(kinds) > 1:
        raise UsageError(
            "files of different kinds cannot be imported together",
            got=", ".join(f"{path.name} ({kind})" for kind, path in kinds.items()),
            next_step="import each kind on its own, the second with --append",
        )
    seen: dict[Path, Path] = {}
    for path in paths:
        if (first := seen.setdefault(path.resolve(), path)) is not path:
            raise UsageError("a file is given twice", where=path, got=first)
    return Files(next(iter(kinds)), tuple(paths), _parse_types(types))


def _kind(path: Path) -> Kind:
    packed = path.suffix.lower() in COMPRESSED
    kind = SUFFIXES.get(Path(path.stem if packed else path.name).suffix.lower())
    with database.explained(path):
        if not path.exists():
            raise InputMissing("there is no such file", where=path)
        if path.is_dir():
            raise UsageError("this is a folder", where=path, expected="files", next_step=f"give its files: {path}/*")
        if kind is None or (packed and kind is Kind.parquet):
            raise UsageError(
                "the name of the file does not say what it holds",
                where=path,
                expected=f"{', '.join(SUFFIXES)}; all but .parquet may be compressed: {', '.join(COMPRESSED)}",
            )
        if path.stat().st_size == 0:
            raise InputError("the file is empty", where=path)
    return kind


def _parse_types(texts: Sequence[str]) -> dict[str, str]:
    types = {}
    for text in texts:
        for part in re.split(r",(?![^(]*\))", text):
            name, _, wanted = part.rpartition("=")
            try:
                kind = str(duckdb.sqltype(wanted.strip()))
            except duckdb.Error:
                kind = ""
            if not name.strip() or not (kind in TYPES or kind.startswith("DECIMAL(")):
                raise UsageError(
                    f"{part!r} does not give a column its type",
                    expected=f"COLUMN=TYPE, with one of {', '.join(sorted(TYPES))} or DECIMAL(18,3)",
                )
            types[name.strip()] = kind
    return types


def read(con: Connection, files: Files) -> Relation:
    """Returns the rows of all files.

    Raises SchemaMismatch if the files have not the same columns, UsageError if `types` names one that is not there.
    """
    # DuckDB takes a path for a pattern, and a file may well be called `data [1].csv`.
    paths = [glob.escape(str(path.absolute())) for path in files.paths]
    as_text = {name for name, kind in files.types.items() if kind == "VARCHAR"}
    if files.kind is Kind.csv:
        headers = {path: delimited.header(path) for path in files.paths}
        _same_columns({path: header.described for path, header in headers.items()}, ordered=True)
        rows = delimited.read(con, paths, headers[files.paths[0]], as_text)
    elif files.kind is Kind.json:
        rows = jsonlines.read(con, paths, as_text)
    else:
        rows = _parquet(con, files.paths, paths)
    found = database.schema(rows)
    if unknown := sorted(set(files.types) - set(found)):
        what = f"--types names a column that is not there: {unknown[0]!r}{nearest(unknown[0], list(found))}"
        raise UsageError(what, expected=", ".join(found))
    return rows.select(*(_column(name, kind, files.types.get(name)) for name, kind in found.items()))


def _parquet(con: Connection, files: Sequence[Path], paths: Sequence[str]) -> Relation:
    # By default a folder called `ds=...` would add a column, or replace the file's own.
    query = "SELECT * FROM read_parquet($paths, hive_partitioning = false, union_by_name = true)"
    columns = {}
    for file, path in zip(files, paths, strict=True):
        try:
            columns[file] = con.sql(query, params={"paths": [path]}).columns
        except duckdb.Error as error:
            raise database.unreadable(error, file) from error
    _same_columns(columns)
    return con.sql(query, params={"paths": paths})


def _same_columns(columns: Mapping[Path, Sequence[str]], *, ordered: bool = False) -> None:
    """Raises SchemaMismatch if the files have not the same columns: NULL would silently stand for what one lacks."""
    first, *others = columns
    mine = columns[first]
    for file in others:
        theirs = columns[file]
        if list(mine) != list(theirs) if ordered else set(mine) != set(theirs):
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
    if wanted in WHOLE and found not in WHOLE:
        lost |= ~_is_whole(column, found)  # a plain cast makes 32 of 31.7 without a word
    refusal = Function("error", Constant(f"{REFUSED}{name!r} {wanted}"))
    return Case(column.isnotnull() & lost, refusal).otherwise(value).alias(name)


def _is_whole(column: Expression, found: str) -> Expression:
    if found == "VARCHAR":
        return Function("regexp_full_match", column, Constant(r" *[-+]?\d+(\.0*)? *"))
    number = column.cast("DOUBLE")
    return (Function("round", number) == number) & (Function("abs", number) < Constant(EXACT))


@contextmanager
def explained(files: Files) -> Iterator[None]:
    """Turns DuckDB's errors into ours. They quote what they could not read; ours give file and line, but no content."""
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
            raise SchemaMismatch(f"a value of {column} is not {wanted}", where=files, next_step="see --types") from None
        if "Conversion Error" in text:
            what = "a value does not have its column's type"
            raise SchemaMismatch(what, where=files, next_step="see --types") from None
        if files.kind is not Kind.parquet and re.search("GZIP|ZSTD|compress", text, re.IGNORECASE):
            what = f"a compressed {files.kind} file is damaged"
            raise UnreadableFile(what, where=files, got=text.splitlines()[0]) from None
        with database.explained(files):
            raise
