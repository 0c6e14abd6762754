"""Reads CSV: finds delimiter and names in the header; every value is text, until `inference` finds its type."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipeline.errors import LakescoreError, SchemaMismatch, UnreadableFile
from pipeline.tabular import whole
from pipeline.tabular.inference import TEXT, infer, rules_of, typed
from pipeline.tabular.spelling import DELIMITERS

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation

HEADER_BYTES = 1 << 20
READ = """
    SELECT * FROM read_csv($paths, columns = $columns, delim = $delimiter, auto_detect = false, header = true,
                           skip = $skip, quote = '"', escape = '"', strict_mode = true, hive_partitioning = false,
                           buffer_size = 8000000)
"""
"""Buffers are 8 MB: with the default of 32 MB, a concurrent sort fails under a memory limit of 250 MB."""
EXCEL = re.compile(r"sep=(.)", re.IGNORECASE)
"""The first line by which Excel is told the delimiter; the header is then the second line."""


class Header(NamedTuple):
    names: list[str]
    delimiter: str
    line: int = 1

    @property
    def described(self) -> list[str]:
        """The names, and what else must be the same in all files of an import."""
        start = [f"from line {self.line}"] if self.line > 1 else []
        return [*self.names, f"separated by {self.delimiter!r}", *start]


def header(file: Path, delimiter: str | None = None) -> Header:
    """Reads the first line. The delimiter is the given one, or whichever of DELIMITERS occurs most often in it.

    A first line `sep=;`, which Excel writes, names the delimiter instead, and the header follows.
    Raises UnreadableFile, or SchemaMismatch for empty or duplicate names (ignoring case).
    """
    try:
        with whole.open_bytes(file) as stream:
            content = stream.read(HEADER_BYTES)
        first, second, *_ = [*re.split(rb"\r\n|\r|\n", content, maxsplit=2), b"", b""]
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in first:
            raise UnreadableFile(
                "the header of a CSV file cannot be read",
                where=file,
                expected="a first line with the names of the columns, in UTF-8",
                got="UTF-16, or bytes that are zero",
                next_step="if it is UTF-16, convert it: iconv -f UTF-16 -t UTF-8",
            )
        told = EXCEL.fullmatch(first.decode("utf-8-sig"))
        line = (second if told else first).decode("utf-8-sig")
        delimiter = delimiter or (told.group(1) if told else max(DELIMITERS, key=line.count))
        names = next(csv.reader([line], delimiter=delimiter, strict=True), [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UnreadableFile(
            "the header of a CSV file cannot be read",
            where=file,
            expected="a first line with the names of the columns, in UTF-8",
            got=error,
        ) from None
    lowered = [name.lower() for name in names]
    twice = [name for name in names if lowered.count(name.lower()) > 1]
    if twice or not all(name.strip() for name in names) or not names:
        raise SchemaMismatch(
            "a CSV header must name each column exactly once",
            where=f"{file}, line {2 if told else 1}",
            got=f"{twice[0]!r} and {twice[1]!r}" if twice else "a column without a name",
            next_step="give each column a unique name (pandas: to_csv(index=False))",
        )
    return Header(names, delimiter, 2 if told else 1)


def read_text(con: Connection, paths: Sequence[str], header: Header) -> Relation:
    """Returns the rows of files that all have this header, every value as text."""
    return con.sql(READ, params=_options(paths, header, dict.fromkeys(header.names, TEXT)))


def read(
    con: Connection, paths: Sequence[str], header: Header, text: Collection[str], key: Collection[str], decimal: str
) -> Relation:
    """Returns the rows of files that all have this header. Columns in `text` stay text, without type inference."""
    rows = read_text(con, paths, header)
    types = infer(rows, rules_of([name for name in header.names if name not in text], key, decimal), decimal)
    if decimal == ".":  # DuckDB parses a typed column faster than it makes text and casts it
        return con.sql(READ, params=_options(paths, header, {name: types.get(name, TEXT) for name in header.names}))
    return rows.select(*(typed(name, types.get(name, TEXT), decimal) for name in header.names))


def _options(paths: Sequence[str], header: Header, columns: dict[str, str]) -> dict[str, object]:
    return {"paths": paths, "delimiter": header.delimiter, "skip": header.line - 1, "columns": columns}


def line_of(file: Path, column: str, value: str, delimiter: str | None = None) -> int | None:
    """Returns the number of the first line on which a row with this value begins. Reads the file up to there."""
    head = header(file, delimiter)
    at = head.names.index(column)
    with whole.open_bytes(file) as stream:
        lines = io.TextIOWrapper(io.BufferedReader(stream), "utf-8-sig", newline="")
        rows, begin = csv.reader(lines, delimiter=head.delimiter), 1
        for row in rows:
            if begin > head.line and len(row) > at and row[at] == value:
                return begin
            begin = rows.line_num + 1
    return None


def translate_error(text: str) -> LakescoreError | None:
    """Translates an error of DuckDB's CSV reader: keeps file and line, drops the line's content. None if unknown."""
    if "CSV Parser state machine" in text:
        return UnreadableFile(
            "a CSV file is not well-formed",
            where=_file(text),
            got="mixed line endings (CRLF and LF), or an unclosed quote",
            next_step="write it again with one kind of line ending",
        )
    if not (line := re.search(r"CSV Error on Line: (\d+)", text)):
        return None
    where = f"{_file(text)}, line {line.group(1)}"
    if column := re.findall(r'^Error when converting column "(.*)"\. Could not convert', text, re.MULTILINE):
        return SchemaMismatch(f"a value of {column[-1]!r} does not have its column's type", where=where)
    if counts := re.findall(r"^Expected Number of Columns: (\d+) Found: (\d+)$", text, re.MULTILINE):
        expected, found = counts[-1]
        return UnreadableFile("a line has the wrong number of values", where=where, expected=expected, got=found)
    if "Invalid unicode" in text:
        return UnreadableFile("a line is not UTF-8", where=where, next_step="convert it: iconv -t UTF-8")
    return UnreadableFile("a line is not valid CSV", where=where, next_step="look for an unclosed quote")


def _file(text: str) -> str:
    """Returns the last match: an earlier one may come from the data that the message quotes."""
    return str((re.findall(r"^  file = (.*)$", text, re.MULTILINE) or ["a CSV file"])[-1])
