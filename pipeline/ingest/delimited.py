"""CSV: the header is read here, and the types are found here, by rules that look at every row.

DuckDB's own guess rests on a sample, and a later row is then bent to fit: 1.5 becomes 2, 0012 becomes 12, and
01/02/2026 a day in January or in February. So a sample only suggests a type, one pass over all rows confirms it, and
for columns where it does not, one more finds the first type of the list below that fits every value.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
from duckdb import CaseExpression as Case
from duckdb import ColumnExpression as Column
from duckdb import ConstantExpression as Constant
from duckdb import FunctionExpression as Function

from pipeline.errors import LakescoreError, SchemaMismatch, UnreadableFile

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation
    from duckdb import Expression

RULES = {
    "BOOLEAN": r"(?i)true|false",
    "BIGINT": r" *[-+]?(0|[1-9]\d{0,18}) *",
    "DOUBLE": r" *([-+]?(0|[1-9]\d{0,14}|(0|[1-9]\d*)\.\d*|\.\d+)([eE][-+]?\d+)?|(?i:[-+]?inf(inity)?|nan)) *",
    "DATE": r"\d{4}-\d\d-\d\d",
    "TIMESTAMP": r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d(\.\d{1,6})?)?",
    "TIMESTAMP WITH TIME ZONE": r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[-+]\d\d(:?\d\d)?)",
}
"""What each value of a column must look like for the column to have the type; the first that fits wins, else VARCHAR.

A number with a leading zero, or one that loses digits as a BIGINT or a double, is a name, and stays text.
"""
TEXT = "VARCHAR"
SAMPLE_ROWS = 20_000
HEADER_BYTES = 1 << 20
READ = """
    SELECT * FROM read_csv($paths, columns = $columns, delim = $delimiter, auto_detect = false, header = true,
                           quote = '"', escape = '"', strict_mode = true, hive_partitioning = false,
                           buffer_size = 8000000)
"""
"""Buffers of 8 MB: with those of 32, which are the default, a sort beside it fails under a memory limit of 250 MB."""


class Header(NamedTuple):
    names: list[str]
    delimiter: str

    @property
    def described(self) -> list[str]:
        return [*self.names, f"separated by {self.delimiter!r}"]


def header(file: Path) -> Header:
    """Reads the first line. The delimiter is that of `,` `;` tab `|` which it has most of.

    Raises UnreadableFile, or SchemaMismatch for names that are empty, or there twice (capitals are not told apart).
    """
    try:
        with pa.input_stream(str(file), compression="detect") as stream:
            line = stream.read(HEADER_BYTES).replace(b"\r", b"\n").split(b"\n")[0].decode("utf-8-sig")
        delimiter = max(",;\t|", key=line.count)
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
            "a CSV header names each column once",
            where=f"{file}, line 1",
            got=f"{twice[0]!r} and {twice[1]!r}" if twice else "a column without a name",
            next_step="give the columns names (pandas: to_csv(index=False))",
        )
    return Header(names, delimiter)


def read(con: Connection, paths: Sequence[str], header: Header, text: Collection[str]) -> Relation:
    """Returns the rows of files that all have this header. Columns in `text` are not looked at and stay text."""
    names = header.names
    options = {"paths": paths, "delimiter": header.delimiter}
    as_text = con.sql(READ, params=options | {"columns": dict.fromkeys(names, TEXT)})
    types = _types(as_text, [name for name in names if name not in text])
    return con.sql(READ, params=options | {"columns": {name: types.get(name, TEXT) for name in names}})


def explain(text: str) -> LakescoreError | None:
    """Returns the error of ours for one of DuckDB's CSV reader: with file and line, and without the line's content."""
    if "CSV Parser state machine" in text:
        return UnreadableFile(
            "a CSV file is not well-formed",
            where=_file(text),
            got="line ends of two kinds (CRLF and LF), or a quote that is not closed",
            next_step="write it again with one kind of line end",
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
    return UnreadableFile("a line is not valid CSV", where=where, next_step="look for a quote that is not closed")


def _file(text: str) -> str:
    """The last such line: one before it may stand in the data that the message quotes."""
    return str((re.findall(r"^  file = (.*)$", text, re.MULTILINE) or ["a CSV file"])[-1])


def _types(rows: Relation, names: Sequence[str]) -> dict[str, str]:
    every = list(RULES)
    guess = _first_fit(rows.limit(SAMPLE_ROWS), dict.fromkeys(names, every))
    sure = _first_fit(rows, {name: [kind] for name, kind in guess.items() if kind in RULES})
    open_ = [name for name, kind in guess.items() if kind is None or sure.get(name) == TEXT]
    return {name: kind or TEXT for name, kind in (guess | sure | _first_fit(rows, dict.fromkeys(open_, every))).items()}


def _first_fit(rows: Relation, candidates: Mapping[str, Sequence[str]]) -> dict[str, str | None]:
    """Returns the first type that fits all values of a column, else TEXT; of a column without any value, None."""
    asked = [(name, kind) for name, kinds in candidates.items() for kind in kinds]
    if not asked:
        return {}
    fitting: dict[str, str | None] = dict.fromkeys(candidates)
    for (name, kind), fits in zip(asked, rows.aggregate([_fits(*each) for each in asked]).fetchall()[0], strict=True):
        if fits is not None and fitting[name] in (None, TEXT):
            fitting[name] = kind if fits else TEXT
    return fitting


def _fits(name: str, kind: str) -> Expression:
    """Returns whether all values have the type; NULL if there are none."""
    column = Column(name)
    castable = Function("try", column.cast(kind)).isnotnull()
    looks_right = Function("regexp_full_match", column, Constant(RULES[kind]))
    return Function("bool_and", Case(looks_right, castable).when(column.isnotnull(), Constant(value=False)))
