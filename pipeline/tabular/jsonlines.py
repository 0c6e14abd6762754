"""Reads JSON lines, one object per line. DuckDB finds keys and structure in all lines of all files.

By default DuckDB looks only at a sample: keys that first occur later are dropped, and a later 2.5 becomes 2. It also
takes `1-2-3` and `01-02-03` for one date: what a string or a number is, `inference` decides, as for CSV. A key that is
absent from a line is NULL. A value that is a number in one line and text in another is text in all.

DuckDB reads a number with a decimal point as a DOUBLE, even where it is asked for text, so such a number whose digits a
DOUBLE does not keep is refused. Of numbers alone, `1.10` and `1.1` are the same.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from duckdb import ColumnExpression as Column
from duckdb import ConstantExpression as Constant
from duckdb import FunctionExpression as Function

from pipeline.errors import LakescoreError, SchemaMismatch, UnreadableFile
from pipeline.tabular import inference, whole
from pipeline.tabular.inference import KEY_RULES, TEXT, Rule, infer, rules
from pipeline.tabular.spelling import Spelling

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation
    from duckdb.sqltypes import DuckDBPyType

DETECT = """
    SELECT * FROM read_json($paths, format = 'newline_delimited', records = 'true', sample_size = -1,
                            maximum_sample_files = 9223372036854775807, union_by_name = true, hive_partitioning = false,
                            field_appearance_threshold = 0, map_inference_threshold = -1, maximum_object_size = 4000000)
"""
READ = """
    SELECT * FROM read_json($paths, format = 'newline_delimited', records = 'true', columns = $columns,
                            hive_partitioning = false, maximum_object_size = 4000000)
"""
"""A line may have 4 MB, and a buffer is twice that: with DuckDB's 16 MB, a concurrent sort fails at a 250 MB limit."""
OBJECTS = """
    SELECT json FROM read_ndjson_objects($paths, hive_partitioning = false, maximum_object_size = 4000000)
"""
"""Each line as it is written."""
WHOLE = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"}
CERTAIN = WHOLE | {"BOOLEAN"}
"""Types that DuckDB gives only to what is a boolean or an integer in JSON itself: they need no second look."""
FROM_STRINGS = {"DATE", "TIME", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "TIMESTAMP_NS"}
FLOATING = {"FLOAT", "DOUBLE"}
FLOAT = Rule("DOUBLE", r"-?\d{1,15}|.*[^-\d].*", suffices=True)
"""What DuckDB has read as a DOUBLE, printed by DuckDB: only an integer of many digits may not be one."""
LONG = r"\d[\d.]{15,}(?:[eE][-+]?\d+)?|\d[\d.]*[eE][-+]?\d+"
"""What may be a number of many digits or with an exponent, without its sign; it may also stand within a string."""
RENAMED = re.compile(r"(.+)_\d+")
BYTE_ORDER_MARKS = {b"\xef\xbb\xbf": "UTF-8", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


class Say(NamedTuple):
    """What errors need to know about the files."""

    place: Callable[[str, str], str]
    """Returns file and line of a column's value."""
    spelling: Spelling = Spelling.command


def read_text(con: Connection, paths: Sequence[str], names: Collection[str]) -> Relation:
    """Returns these columns of the rows, every value as text."""
    return con.sql(READ, params={"paths": paths, "columns": dict.fromkeys(names, TEXT)})


def read(
    con: Connection,
    paths: Sequence[str],
    text: Collection[str],
    key: Collection[str],
    rounded: Collection[str],
    say: Say,
) -> Relation:
    """Returns the rows of all files. Columns in `text` stay text, without type inference.

    Raises SchemaMismatch for keys that differ only in case, and for a number that a DOUBLE would round, except in the
    columns `rounded`.
    """
    found = con.sql(DETECT, params={"paths": paths})
    kinds = dict(zip(found.columns, found.types, strict=True))
    _check_capitals(con, paths, list(kinds))
    if any("DOUBLE" in str(kind) for kind in kinds.values()):
        _check_digits(con, paths, rounded, say)
    plain = {*text, *(name for name in key if str(kinds.get(name)) in FLOATING)}
    types = {name: TEXT if name in plain else _sober(kind) for name, kind in kinds.items()}
    candidates = {name: _rules(str(kind), key=name in key) for name, kind in kinds.items() if name not in plain}
    if open_ := {name: rules for name, rules in candidates.items() if rules}:
        types |= infer(read_text(con, paths, list(open_)), open_)
    return con.sql(READ, params={"paths": paths, "columns": types})


def _rules(found: str, *, key: bool) -> tuple[Rule, ...]:
    """Returns the rules that decide about a column of which DuckDB believes this; none if there is no doubt."""
    if found in FLOATING:
        return (FLOAT,)
    if found in FROM_STRINGS:
        return tuple(rule for rule in (KEY_RULES if key else rules(".")) if rule.kind in FROM_STRINGS)
    return ()


def _sober(kind: DuckDBPyType) -> str:
    """Returns a type without DuckDB's guesses about strings, at any depth, and with large integers as text."""
    children = cast("list[tuple[str, DuckDBPyType]]", kind.children) if kind.id in ("list", "struct") else []
    if kind.id == "list":
        return f"{_sober(children[0][1])}[]"
    if kind.id == "struct":
        return f"STRUCT({', '.join(f'{_quoted(name)} {_sober(child)}' for name, child in children)})"
    return str(kind) if str(kind) in CERTAIN | FLOATING else TEXT


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _check_capitals(con: Connection, paths: Sequence[str], names: list[str]) -> None:
    """Raises SchemaMismatch for keys that differ only in case: DuckDB reads `id` and `ID` as `id` and `ID_1`."""
    lowered = {name.lower() for name in names}
    suspects = [name for name in names if (stem := RENAMED.fullmatch(name)) and stem.group(1).lower() in lowered]
    if not suspects:
        return
    rows = con.sql(READ, params={"paths": paths, "columns": dict.fromkeys(suspects, "JSON")})
    counts = rows.aggregate("count(COLUMNS(*))").fetchall()[0]
    if made_up := [name for name, count in zip(suspects, counts, strict=True) if count == 0]:
        raise SchemaMismatch(
            "two keys differ only in case",
            got=", ".join(RENAMED.sub(r"\1", name) for name in made_up),
            next_step="rename one of them; column names are not case-sensitive",
        )


def _check_digits(con: Connection, paths: Sequence[str], rounded: Collection[str], say: Say) -> None:
    """Raises SchemaMismatch for a number with more digits than a DOUBLE keeps: DuckDB has rounded it already."""
    objects = con.sql(OBJECTS, params={"paths": paths})
    long = objects.filter(Function("regexp_matches", Column("json"), Constant(LONG)))
    each = Function("unnest", Function("regexp_extract_all", Column("json"), Constant(LONG)))
    numbers = long.select(Column("json"), each.alias("number"))
    whole = Function("regexp_full_match", Column("number"), Constant(r"\d+"))
    suspects = numbers.filter(~whole & ~inference.survives(Column("number"), "."))
    with suspects.to_arrow_reader(1000) as batches:
        for batch in batches:
            for row in batch.to_pylist():
                if found := _find(row["json"], row["number"], rounded):
                    column, written = found
                    raise SchemaMismatch(
                        f"a number of {column!r} has more digits than a DOUBLE keeps",
                        where=say.place(column, written),
                        got=written,
                        next_step="write it as a string, or accept that it is rounded: "
                        + say.spelling.type(column, "DOUBLE"),
                    )


def _find(line: str, number: str, rounded: Collection[str]) -> tuple[str, str] | None:
    """Returns the column, not in `rounded`, that has a number written like this at any depth, and with its sign."""
    for column, value in json.loads(line, parse_float=Number, parse_int=Number).items():
        for leaf in _leaves(value):
            if column not in rounded and isinstance(leaf, Number) and leaf.lstrip("-") == number:
                return column, leaf
    return None


class Number(str):
    """A JSON number as it is written."""

    __slots__ = ()


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, (dict, list)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _leaves(each)
    else:
        yield value


def line_of(file: Path, column: str, value: str) -> int | None:
    """Returns the number of the first line with this value of a column, at any depth. Reads the file up to there."""
    with whole.open_bytes(file) as stream:
        for number, line in enumerate(io.BufferedReader(stream), start=1):
            found = json.loads(line, parse_float=Number, parse_int=Number).get(column) if line.strip() else None
            if any(_is_text(leaf, value) for leaf in _leaves(found)):
                return number
    return None


def _is_text(leaf: Any, text: str) -> bool:
    """Returns whether DuckDB may return a leaf as this text: a number comes back in DuckDB's own form."""
    if not isinstance(leaf, Number):
        return text == (json.dumps(leaf) if isinstance(leaf, bool) else leaf)
    return leaf == text or (inference.PLAIN_NUMBER.fullmatch(text) is not None and float(leaf) == float(text))


def translate_error(text: str, spelling: Spelling = Spelling.command) -> LakescoreError | None:
    """Translates an error of DuckDB's JSON reader: keeps file and line, drops the line's content. None if unknown."""
    if malformed := re.search(r'Malformed JSON in file "(.*)", at byte \d+ in line (\d+): ([a-zA-Z0-9 -]*)', text):
        file, line, reason = malformed.groups()
        number, problem = _first_bad_line(file, int(line)) or (int(line), Problem(reason.strip()))
        return UnreadableFile(
            "a line is not valid JSON",
            where=f"{file}, line {number}",
            expected="one object per line",
            got=problem.what if problem.next_step else reason.strip(),
            next_step=problem.next_step,
        )
    if transform := re.search(r'JSON transform error in file "(.*)", in line (\d+): (Object .*duplicate key)?', text):
        file, line, duplicate = transform.groups()
        what = "a line contains a key twice" if duplicate else "a value does not have its column's type"
        return SchemaMismatch(what, where=f"{file}, line {line}", next_step=f"see {spelling.types}")
    if "json_read expected records" in text:
        return SchemaMismatch("a file does not hold JSON lines", expected='one object per line, such as {"id": 1}')
    return None


class Problem(NamedTuple):
    what: str
    next_step: str | None = None


def _first_bad_line(file: str, reported: int) -> tuple[int, Problem] | None:
    """Returns the line that cannot be parsed, and why; DuckDB 2.0 may report a neighbouring line."""
    with whole.open_bytes(Path(file)) as stream:
        lines = enumerate(islice(io.BufferedReader(stream), reported + 1), start=1)
        near = ((number, _problem(line)) for number, line in lines if number >= reported - 2)
        return next(((number, problem) for number, problem in near if problem is not None), None)


def _problem(line: bytes) -> Problem | None:
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if line.startswith(mark):
            without = "without a byte order mark" if encoding == "UTF-8" else "in UTF-8"
            return Problem(f"a byte order mark of {encoding}", f"save the file {without}")
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return Problem("bytes that are not UTF-8", "convert it: iconv -t UTF-8")
    try:
        value = json.loads(text, parse_constant=_refuse) if text.strip() else None
    except ValueError:
        return Problem("no valid JSON")
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        half = r"half of a surrogate pair, such as \ud83d without its other half"
        return Problem(half, "correct the program that wrote it: it cut a text within a character")
    return None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
