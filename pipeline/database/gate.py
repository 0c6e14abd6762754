"""Lets a person's SQL pass only if it is one SELECT that changes nothing and opens no file.

The check uses DuckDB's own parse tree, not the text: it allows only SELECTs (since 2.0, `WITH x AS (COPY ...)` looks
like one from outside) and only harmless table functions. A job's SELECT may also name only its sources, since its
connection is not locked to certain files, as that of a query is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any

import duckdb
from duckdb import SQLExpression

from pipeline.errors import QueryRefused, nearest

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

Node = dict[str, Any]

EXPLAIN = re.compile(r"\s*EXPLAIN\s+(ANALYZE\s+)?", re.IGNORECASE)
NODES = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}
COMPUTING = {"unnest", "range", "generate_series", "json_each", "json_tree", "repeat"}
"""Table functions that only compute."""
DESCRIBING = {
    *("summary", "duckdb_columns", "duckdb_functions", "duckdb_keywords", "duckdb_settings", "duckdb_types"),
    "duckdb_views",
}
"""Table functions that tell what there is. Others open files, run SQL from text, take pointers or change settings."""


def check_query(con: Connection, text: str, views: Iterable[str]) -> None:
    """Raises QueryRefused unless the text is one SELECT, or EXPLAIN of one, that changes nothing and opens no file.

    It may still name a file as a table: the connection must be locked to the files of `views`, which errors list.
    """
    if explained := EXPLAIN.match(text):  # only where the text begins with it: what is checked is what runs
        text = text[explained.end() :]
    readable = ", ".join(views)
    _parse(con, text, lambda node: _check_node(node, COMPUTING | DESCRIBING, f"a view ({readable})"))


def check_select(con: Connection, text: str, sources: Collection[str]) -> None:
    """Raises QueryRefused unless the text is one SELECT that reads `sources`, and its own WITH clauses, and no more."""
    nodes: list[Node] = []

    def collect(node: Node) -> None:
        _check_node(node, COMPUTING, f"a source ({', '.join(sources)})")
        nodes.append(node)

    _parse(con, text, collect)
    named = {str(entry["key"]).casefold() for node in nodes for entry in _with_clauses(node)}
    # The name of a WITH clause could be used where that clause does not reach. Without a dot no file can have it.
    known = {name.casefold() for name in sources} | {name for name in named if "." not in name}
    for node in nodes:
        if node.get("type") == "SHOW_REF":
            raise QueryRefused("a job's SELECT cannot describe tables", expected=f"rows of {', '.join(sources)}")
        if node.get("type") == "BASE_TABLE":
            name = ".".join(filter(None, (node["catalog_name"], node["schema_name"], node["table_name"])))
            if name.casefold() not in known or node["schema_name"]:
                raise QueryRefused(
                    f"{name} is not a source of the job{nearest(name, list(sources))}",
                    expected=", ".join(sources),
                    next_step="name its files under [input.sources] in job.toml, and read it by that name",
                )


def check_expression(con: Connection, text: str, source: str) -> None:
    """Raises QueryRefused unless the text is one expression over the columns of `source`, and reads nothing else."""
    try:
        SQLExpression(text)  # parses exactly one
    except duckdb.Error as error:
        raise QueryRefused("this is not an expression in SQL", got=str(error).splitlines()[0]) from None
    check_select(con, f"SELECT (\n{text}\n) FROM {source}", [source])  # noqa: S608 - it is only parsed


def _parse(con: Connection, text: str, check: Callable[[Node], None]) -> None:
    """Parses one SELECT, and calls `check` with each node of its tree. Raises QueryRefused if it is anything else."""

    def checked(node: Node) -> Node:
        check(node)
        return node

    kinds = [statement.type.name for statement in con.extract_statements(text)]
    if kinds == ["MULTI"]:
        raise QueryRefused("PIVOT must list its values", expected="PIVOT ... ON column IN ('a', 'b') USING ...")
    if kinds != ["SELECT"]:
        raise QueryRefused("a query must be one SELECT", expected="SELECT ...", got=", ".join(kinds) or "nothing")
    parsed = con.execute("SELECT json_serialize_sql($text::VARCHAR)", {"text": text}).fetchall()[0][0]
    try:
        tree = json.loads(parsed, object_hook=checked)
    except RecursionError:
        raise QueryRefused("the query is nested too deeply") from None
    if tree["error"]:
        raise QueryRefused("a query must be one SELECT", got=tree["error_message"])


def _check_node(node: Node, functions: Collection[str], readable: str) -> None:
    """Raises QueryRefused for a node that does more than read, or a table function that is none of `functions`."""
    kind = str(node.get("type"))
    if kind.endswith("_NODE") and kind not in NODES:
        raise QueryRefused("a query may only read", expected="SELECT", got=kind.partition("_")[0])
    if kind == "TABLE_FUNCTION" and (name := node["function"]["function_name"].lower()) not in functions:
        raise QueryRefused(f"a query may not call {name}()", expected=f"{readable}, or {', '.join(sorted(functions))}")


def _with_clauses(node: Node) -> list[Node]:
    """Returns the WITH clauses of a node of the parse tree, each with its name as `key`."""
    clauses = node.get("cte_map")
    return clauses["map"] if isinstance(clauses, dict) else []
