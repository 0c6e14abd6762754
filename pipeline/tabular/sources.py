"""Opens files of other programs as one DuckDB relation, with types that are valid for every row of every file.

Import, labels, training rows, golden examples and `lakescore score` all read through `find` and `read`.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from pipeline.database.connection import (
    column_types,
    damaged_input,
    incomplete_file,
    read_parquet,
    rows_by_file,
    translated_errors,
)
from pipeline.database.widening import check_widened
from pipeline.errors import (
    InputError,
    InputMissing,
    LakescoreError,
    SchemaMismatch,
    UsageError,
    nearest,
)
from pipeline.tabular import conversion, delimited, jsonlines, whole
from pipeline.tabular.inference import TEXT, first_other
from pipeline.tabular.spelling import ALIASES, Spelling

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation


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
NUMBERS = {"BOOLEAN", "BIGINT", "DOUBLE"}
"""Types inferred from text that a model can take as numbers."""
MISSING = re.compile(r" *(n/?a|null|none|nil|-+|\?|missing) *", re.IGNORECASE)
"""How some programs write a missing value."""


@dataclass(frozen=True)
class Files:
    """Files to read, all of one kind: each kind has its own types, and all of the files have one schema.

    `types` maps columns to DuckDB types and overrides the inferred ones; `decimal` is the decimal point of numbers
    that are text; `seen` is what each file looked like when it was found. `delimiter` is that of CSV, None to find it;
    `spelling` is how errors name these. Made by `find`.
    """

    kind: Kind
    paths: tuple[Path, ...]
    types: Mapping[str, str]
    seen: tuple[tuple[Path, whole.Seen], ...]
    decimal: str = "."
    delimiter: str | None = None
    spelling: Spelling = Spelling.command
    renamed: Mapping[str, str] = field(default_factory=dict)
    """New names of columns by those in the files."""

    def __str__(self) -> str:
        first, *others = self.paths
        return f"{first} and {len(others)} more" if others else str(first)


def find(
    paths: Sequence[Path],
    types: Sequence[str] | Mapping[str, str] = (),
    decimal: str = ".",
    delimiter: str | None = None,
    *,
    kind: Kind | None = None,
    renamed: Sequence[str] = (),
    spelling: Spelling = Spelling.command,
) -> Files:
    """Checks paths and names without reading the files.

    `types` are texts like `id=VARCHAR,age=INTEGER`, or types by column. `kind` says what the files are, whatever their
    names; by default, their names say it. `renamed` are texts like `customer=id`.

    Raises InputMissing, InputError for an empty file (IncompleteFile if no such file can be empty), and UsageError for
    files or types that cannot be imported.
    """
    if not paths:
        raise UsageError("no files given", next_step="lakescore import FILES --date D")
    kinds = {_kind(path, kind): path for path in paths}
    if len(kinds) > 1:
        raise UsageError(
            "files of different kinds cannot be imported together",
            got=", ".join(f"{path.name} ({kind})" for kind, path in kinds.items()),
            next_step="import each kind separately, the second with --append",
        )
    seen: dict[Path, Path] = {}
    for path in paths:
        if (first := seen.setdefault(path.resolve(), path)) is not path:
            raise UsageError("the same file is given twice", where=path, got=first)
    if decimal not in (".", ","):
        raise UsageError(
            "unknown decimal point", expected="'.' or ','", got=repr(decimal), next_step=spelling.decimal(",")
        )
    (found,) = kinds
    as_seen = tuple((path, whole.look_at(path)) for path in paths)
    return Files(
        found,
        tuple(paths),
        parse_types(types),
        as_seen,
        decimal,
        parse_delimiter(delimiter, found),
        spelling,
        _parse_names(renamed),
    )


def _parse_names(texts: Sequence[str]) -> dict[str, str]:
    parts = [part.partition("=") for text in texts for part in text.split(",")]
    pairs = [(name.strip(), wanted.strip()) for name, _, wanted in parts]
    old, new = ([pair[at].lower() for pair in pairs] for at in (0, 1))
    if not all(map(all, pairs)) or len(set(old)) < len(old) or len(set(new)) < len(new):
        raise UsageError(
            "--rename does not give each column one new name", expected="OLD=NEW", got=repr(", ".join(texts))
        )
    return dict(pairs)


def parse_delimiter(text: str | None, kind: Kind) -> str | None:
    """Returns the character that a person names as delimiter. Raises UsageError."""
    if text is None:
        return None
    character = ALIASES.get(text.lower(), text)
    if len(character) != 1 or character in '"\r\n' or not character.isascii():
        raise UsageError("unknown delimiter", expected="one character, such as ; or |, or tab", got=repr(text))
    if kind is not Kind.csv:
        raise UsageError(f"{kind} has no delimiter", got=repr(text))
    return character


def _kind(path: Path, said: Kind | None = None) -> Kind:
    packed = path.suffix.lower() in whole.CODECS
    kind = SUFFIXES.get(Path(path.stem if packed else path.name).suffix.lower(), said)
    with translated_errors(path):
        if not path.exists():
            raise InputMissing("no such file", where=path)
        if path.is_dir():
            raise UsageError("this is a folder", where=path, expected="files", next_step=f"name its files: {path}/*")
        if said is not None and kind is not said:
            raise UsageError("a file has another format", where=path, expected=said, got=f"the suffix of {kind}")
        if kind is None or (packed and kind is Kind.parquet):
            raise UsageError(
                "unknown file extension",
                where=path,
                expected=f"{', '.join(SUFFIXES)}; all but .parquet may be compressed: {', '.join(whole.CODECS)}",
            )
        if path.stat().st_size == 0:
            if packed or kind is Kind.parquet:
                raise incomplete_file(path)
            raise InputError("the file is empty", where=path)
    return kind


def parse_types(said: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """Returns types by column, in DuckDB's names. Raises UsageError for what is no type of a column."""
    if isinstance(said, Mapping):
        pairs = [(name, wanted, f"{name} = {wanted!r}") for name, wanted in said.items()]
    else:
        parts = [part for text in said for part in re.split(r",(?![^(]*\))", text)]
        pairs = [(part.rpartition("=")[0].strip(), part.rpartition("=")[2], repr(part)) for part in parts]
    types = {}
    for name, wanted, written in pairs:
        try:
            kind = str(duckdb.sqltype(wanted.strip()))
        except duckdb.Error:
            kind = ""
        if not name or not conversion.is_type(kind):
            raise UsageError(
                f"{written} does not assign a type to a column",
                expected=f"COLUMN=TYPE, with one of {', '.join(sorted(conversion.TYPES))} or DECIMAL(18,3)",
            )
        types[name] = kind
    return types


def read(
    con: Connection,
    files: Files,
    *,
    key: Collection[str] = (),
    text: Collection[str] = (),
    numbers: Collection[str] = (),
) -> Relation:
    """Returns the rows of all files; `files.types` overrides what is said here, and what is inferred.

    Of files of text: columns of `key` get a type only if every value is written as DuckDB writes it; those of `text`
    stay text; those of `numbers` must be numbers, and are DOUBLE if they have no value.

    Raises SchemaMismatch if the files have different columns or a column of `numbers` is none, UsageError if `types`
    names an unknown column, and IncompleteFile or UnreadableFile for a compressed file that is cut off or damaged.
    """
    given = {new: old for old, new in files.renamed.items()}
    key, text, numbers = ([given.get(name, name) for name in names] for names in (key, text, numbers))
    for file in files.paths:
        whole.check_compressed(file)
    # DuckDB treats a path as a glob pattern, and a file may be called `data [1].csv`.
    paths = [glob.escape(str(path.absolute())) for path in files.paths]
    as_text = {*files.types, *text}
    if files.kind is Kind.csv:
        headers = {path: delimited.header(path, files.delimiter) for path in files.paths}
        _same_columns({path: header.described for path, header in headers.items()}, ordered=True)
        header = headers[files.paths[0]]
        rows = delimited.read(con, paths, header, as_text, key, files.decimal)
        raw = delimited.read_text(con, paths, header)
    elif files.kind is Kind.json:
        rounded = [name for name, kind in files.types.items() if kind in conversion.FLOATING | conversion.LISTS]
        say = jsonlines.Say(lambda name, value: place(files, name, value), files.spelling)
        rows = jsonlines.read(con, paths, as_text, key, rounded, say)
        raw = jsonlines.read_text(con, paths, rows.columns)
    else:
        rows = raw = _parquet(con, files.paths)
    found = column_types(rows)
    if unknown := sorted(set(files.types) - set(found)):
        what = f"{files.spelling.types} names an unknown column: {unknown[0]!r}{nearest(unknown[0], list(found))}"
        raise UsageError(what, expected=", ".join(found))
    _check_names(files.renamed, found)
    wanted = dict(files.types)
    if files.kind is not Kind.parquet:
        for name in numbers:
            if name in found and name not in wanted and found[name] not in NUMBERS:
                _check_empty(raw, name, found[name], files)
                wanted[name] = "DOUBLE"
    columns = {
        name: conversion.converted(name, kind, wanted[name], files.decimal)
        if name in wanted
        else conversion.stored(name, kind)
        for name, kind in found.items()
    }
    return rows.select(*(column.alias(files.renamed.get(name, name)) for name, column in columns.items()))


def _check_names(renamed: Mapping[str, str], found: Mapping[str, str]) -> None:
    if unknown := [name for name in renamed if name not in found]:
        what = f"--rename names an unknown column: {unknown[0]!r}{nearest(unknown[0], list(found))}"
        raise UsageError(what, expected=", ".join(found))
    kept = {name.lower() for name in found if name not in renamed}
    if taken := [new for new in renamed.values() if new.lower() in kept]:
        raise UsageError(f"--rename gives a column the name {taken[0]!r}, which another one has")


def _check_empty(rows: Relation, name: str, kind: str, files: Files) -> None:
    """Raises SchemaMismatch for a column that has values, and not only numbers. `rows` are text."""
    value = first_other(rows, name, "DOUBLE", files.decimal)
    if value is None and kind == TEXT:
        return
    raise SchemaMismatch(
        f"column {name!r} must hold numbers",
        where=files if value is None else place(files, name, value),
        got=kind if value is None else repr(value[: conversion.SHOWN]),
        next_step=_advice(name, value or "", files),
    )


def _advice(name: str, value: str, files: Files) -> str:
    if files.decimal == "." and re.fullmatch(r" *[-+]?[\d.]*,\d+ *", value):
        return f"if the comma is the decimal point: {files.spelling.decimal(',')}; remove separators of thousands"
    if MISSING.fullmatch(value):
        return "leave a missing value empty"
    return f"correct it, or say that all values are numbers as they are written: {files.spelling.type(name, 'DOUBLE')}"


def place(files: Files, column: str, value: str) -> str:
    """Returns file and line of a value of a text column; only the files if it is not found."""
    if files.kind is not Kind.parquet:
        for path in files.paths:
            if files.kind is Kind.csv:
                line = delimited.line_of(path, column, value, files.delimiter)
            else:
                line = jsonlines.line_of(path, column, value)
            if line is not None:
                return f"{path}, line {line}"
    return str(files)


def _parquet(con: Connection, files: Sequence[Path]) -> Relation:
    columns = {}
    for file in files:
        try:
            columns[file] = column_types(read_parquet(con, [file.absolute()]))
        except duckdb.Error as error:
            raise damaged_input(error, file) from error
    _same_columns({file: list(types) for file, types in columns.items()})
    rows = rows_by_file(con, [file.absolute() for file in files])
    with_rows = [path for path in rows if rows[path]]  # the columns of a file without rows may have any type
    check_widened(con, {path: types for file, types in columns.items() if rows.get(path := str(file.absolute()))})
    return read_parquet(con, with_rows or list(rows))


def _same_columns(columns: Mapping[Path, Sequence[str]], *, ordered: bool = False) -> None:
    """Raises SchemaMismatch if the columns differ: columns missing from one file would silently become NULL."""
    first, *others = columns
    mine = columns[first]
    for file in others:
        theirs = columns[file]
        if list(mine) != list(theirs) if ordered else set(mine) != set(theirs):
            raise SchemaMismatch(
                "the files have different columns",
                where=file,
                expected=f"{', '.join(mine)} (as in {first.name})",
                got=", ".join(theirs),
                next_step="import them one after another, with --append",
            )


@contextmanager
def translated_read_errors(files: Files) -> Iterator[None]:
    """Translates DuckDB's errors, which quote whole lines, into errors with file and line, and one value at most.

    Raises InputChanged if a file has changed since it was found: what was read from it is not to be kept.
    """
    try:
        yield
    except (LakescoreError, duckdb.Error, OSError) as error:
        whole.check_unchanged(files.seen)
        if isinstance(error, LakescoreError):
            raise
        text = str(error)
        if translated := delimited.translate_error(text) or jsonlines.translate_error(text, files.spelling):
            raise translated from None
        if (refused := conversion.refusal_in(text)) is not None:
            raise SchemaMismatch(
                f"a value of {refused.column!r} is not {refused.wanted}",
                where=place(files, refused.column, refused.value),
                got=repr(refused.value),
                next_step=f"correct it, or give the column another type: {files.spelling.types}",
            ) from None
        if "Conversion Error" in text:
            what = "a value does not have its column's type"
            raise SchemaMismatch(what, where=files, next_step=f"see {files.spelling.types}") from None
        with translated_errors(files):
            raise
    whole.check_unchanged(files.seen)
