"""JSON lines: one object a line. Types are found over all lines of all files, and are DuckDB's.

By its own default DuckDB looks at a sample: a key that comes later is then dropped, and a later 2.5 becomes 2.
Keys that are absent from a line are NULL. What is a number in one line and text in another is text in all.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Collection, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline.errors import LakescoreError, SchemaMismatch, UnreadableFile

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation

DETECT = """
    SELECT * FROM read_json($paths, format = 'newline_delimited', records = 'true', sample_size = -1,
                            maximum_sample_files = 9223372036854775807, union_by_name = true, hive_partitioning = false,
                            field_appearance_threshold = 0, map_inference_threshold = -1, maximum_object_size = 4000000)
"""
READ = """
    SELECT * FROM read_json($paths, format = 'newline_delimited', records = 'true', columns = $columns,
                            hive_partitioning = false, maximum_object_size = 4000000)
"""
"""A line has up to 4 MB, and buffers twice as much: with DuckDB's 16 a sort beside it fails under a limit of 250 MB."""
AS_TEXT = {"JSON", "UUID", '"NULL"', "NULL"}
RENAMED = re.compile(r"(.+)_\d+")


def read(con: Connection, paths: Sequence[str], text: Collection[str]) -> Relation:
    """Returns the rows of all files. Columns in `text` keep what the file says, whatever it looks like."""
    found = con.sql(DETECT, params={"paths": paths})
    types = {
        name: "VARCHAR" if name in text or str(kind) in AS_TEXT else str(kind)
        for name, kind in zip(found.columns, found.types, strict=True)
    }
    _check_capitals(con, paths, list(types))
    return con.sql(READ, params={"paths": paths, "columns": types})


def _check_capitals(con: Connection, paths: Sequence[str], names: list[str]) -> None:
    """Raises SchemaMismatch for keys that differ in capitals only: DuckDB reads `id` and `ID` as `id` and `ID_1`."""
    lowered = {name.lower() for name in names}
    suspects = [name for name in names if (stem := RENAMED.fullmatch(name)) and stem.group(1).lower() in lowered]
    if not suspects:
        return
    rows = con.sql(READ, params={"paths": paths, "columns": dict.fromkeys(suspects, "JSON")})
    counts = rows.aggregate("count(COLUMNS(*))").fetchall()[0]
    if made_up := [name for name, count in zip(suspects, counts, strict=True) if count == 0]:
        raise SchemaMismatch(
            "two keys differ in capitals only",
            got=", ".join(RENAMED.sub(r"\1", name) for name in made_up),
            next_step="rename one of them; column names do not tell capitals apart",
        )


def explain(text: str) -> LakescoreError | None:
    """Returns the error of ours for one of DuckDB's JSON reader: with file and line, and without the line's content."""
    if malformed := re.search(r'Malformed JSON in file "(.*)", at byte \d+ in line (\d+): ([a-zA-Z0-9 -]*)', text):
        file, line, reason = malformed.groups()
        return UnreadableFile(
            "a line is not valid JSON",
            where=f"{file}, line {_first_bad_line(file, int(line))}",
            expected="one object a line",
            got=reason,
        )
    if transform := re.search(r'JSON transform error in file "(.*)", in line (\d+): (Object .*duplicate key)?', text):
        file, line, duplicate = transform.groups()
        what = "a line names a key twice" if duplicate else "a value does not have its column's type"
        return SchemaMismatch(what, where=f"{file}, line {line}", next_step="see --types")
    if "json_read expected records" in text:
        return SchemaMismatch("a file does not hold JSON lines", expected='one object a line, such as {"id": 1}')
    return None


def _first_bad_line(file: str, reported: int) -> int:
    """Returns the line that cannot be parsed; DuckDB 2.0 reports one of its neighbours."""
    with pa.input_stream(file, compression="detect") as stream:
        lines = enumerate(islice(io.BufferedReader(stream), reported + 1), start=1)
        return next((number for number, line in lines if number >= reported - 2 and not _is_json(line)), reported)


def _is_json(line: bytes) -> bool:
    try:
        return not line.strip() or json.loads(line) is not None
    except ValueError:
        return False
