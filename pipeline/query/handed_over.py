"""What exports and flags leave in the lake, for the views of the same names: tables that a delivery makes current."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from pipeline.columns import HIVE, RESERVED
from pipeline.database import sql_files
from pipeline.database.aligning import aligned, union, with_key_text
from pipeline.database.connection import empty_relation

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection
    from duckdb import DuckDBPyRelation as Relation

FILE = "__file"
OF_FOLDERS = dict.fromkeys((*HIVE, "key_text", FILE), "VARCHAR")
EXPORTS = (
    dict.fromkeys(("__target", "__digest", "__campaign", "__group", "__segment"), "VARCHAR")
    | {"__rank": "BIGINT", "__score": "DOUBLE", "__content": "UBIGINT"}
    | OF_FOLDERS
)
FLAGS = (
    dict.fromkeys(("__case", "status", "since", "alert", "alerted_on"), "VARCHAR")
    | {"score": "DOUBLE", "quiet": "INTEGER"}
    | OF_FOLDERS
)
"""Columns of the tables in `exports/` and `flags/`, beside the columns of the key in the former."""
TABLES = {"exports": EXPORTS, "flags": FLAGS}


class Maker(Protocol):
    """What `views.py` gives: a connection, the lake's files, and how files become relations of the schema `stored`."""

    con: Connection
    lasting: bool

    def listed(self, folder: str, ending: str) -> list[str]: ...

    def absolute(self, keys: Iterable[str]) -> list[str]: ...

    def read(self, paths: Sequence[str], folders: Sequence[str] = (), *, file: bool = False) -> list[Relation]: ...

    def in_stored(self) -> AbstractContextManager[None]: ...


def create(maker: Maker, name: str) -> None:
    """Creates `stored.exports` or `stored.flags`, and `stored.current_deliveries`, of the deliveries that it needs."""
    columns = TABLES[name]
    pieces: list[Relation] = []
    keys = {row[0]: row[1] for row in maker.con.sql(sql_files.load("query/views/keys")).fetchall()}
    for job, paths in _files(maker, name).items():
        rows = maker.read(maker.absolute(paths), HIVE, file=True)
        has_key = name == "flags"
        pieces += rows if has_key else [with_key_text(each, keys.get(job, ()), {*RESERVED, *columns}) for each in rows]
    with maker.in_stored():
        union(aligned([*pieces, empty_relation(maker.con, columns)], columns)).create_view(name)
        maker.con.execute(
            f"CREATE VIEW IF NOT EXISTS current_deliveries AS {sql_files.load('query/views/current_deliveries')}"
        )


def _files(maker: Maker, name: str) -> dict[str, list[str]]:
    """Returns the tables by job, or patterns for them."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in maker.listed(name, ".parquet"):
        found[path.split("/")[1].removeprefix("job=")].append(path)
    if maker.lasting:
        return {job: [f"{name}/job={job}/ds=*/model_version=*/*.parquet"] for job in found}
    return found
