"""Each file in sql/ is one SELECT, states what it returns, and is used."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from pipeline.buckets.work import code_digest
from pipeline.database import sql_files
from pipeline.database.sql_files import NamedQuery
from tests.engines.cluster import archive

ROOT = Path(__file__).parent.parent.parent
FILES = {path.relative_to(ROOT / "sql").with_suffix("").as_posix(): path for path in sorted(ROOT.glob("sql/**/*.sql"))}
QUERIES = {name: NamedQuery(name, path.read_text("utf-8")) for name, path in FILES.items()}

PARAMETER = re.compile(r"\$(?P<name>[a-z_]+) (?P<type>[A-Z]+(?:\[\])?): \S.*")


@pytest.fixture(scope="module")
def con() -> duckdb.DuckDBPyConnection:
    return duckdb.connect()


def field(query: NamedQuery, name: str) -> str | None:
    """Returns what a line of the header, such as `Grain: one row per key`, says."""
    found = [line.removeprefix(f"{name}: ") for line in query.header if line.startswith(f"{name}: ")]
    assert len(found) <= 1, f"{name} stands twice in the header"
    return found[0] if found else None


def names(tree: object, member: str) -> set[str]:
    """Returns the values of `member` anywhere in a parsed statement: `table_name` of a table, `key` of a CTE."""
    if isinstance(tree, list):
        return {name for item in tree for name in names(item, member)}
    if not isinstance(tree, dict):
        return set()
    own = {tree[member]} if isinstance(tree.get(member), str) else set()
    return own | names(list(tree.values()), member)


def test_files_are_one_select_each(con: duckdb.DuckDBPyConnection) -> None:
    types = {name: [each.type for each in con.extract_statements(query.text)] for name, query in QUERIES.items()}
    assert {name: found for name, found in types.items() if found != [duckdb.StatementType.SELECT]} == {}


def test_headers_say_what_is_returned_and_its_grain() -> None:
    titles = {name: query.title for name, query in QUERIES.items()}
    assert {name: title for name, title in titles.items() if not title.endswith(".")} == {}, "-- What it returns."
    grains = {name: field(query, "Grain") for name, query in QUERIES.items()}
    wrong = {name: grain for name, grain in grains.items() if grain is None or not grain.startswith("one row")}
    assert wrong == {}, "-- Grain: one row per ..."


def test_headers_name_the_views_that_are_read(con: duckdb.DuckDBPyConnection) -> None:
    said, read = {}, {}
    for name, query in QUERIES.items():
        rows = con.execute("SELECT json_serialize_sql($text)", {"text": query.text}).fetchall()
        tree = json.loads(rows[0][0])
        views = field(query, "Views")
        said[name] = set(views.split(", ") if views else [])
        read[name] = names(tree, "table_name") - names(tree, "key")
    assert said == read, "-- Views: those that the text reads"


def test_headers_explain_each_parameter(con: duckdb.DuckDBPyConnection) -> None:
    explained, used = {}, {}
    for name, query in QUERIES.items():
        lines = [line for line in query.header if line.startswith("$")]
        explained[name] = {match["name"] if (match := PARAMETER.fullmatch(line)) else line for line in lines}
        used[name] = con.extract_statements(query.text)[0].named_parameters
    assert explained == used, "-- $name TYPE: meaning"


@pytest.mark.slow
def test_every_file_is_used() -> None:
    """The files in query/named/ are called by name from the command line; each other one is named in the package."""
    texts = {
        node.value
        for path in (ROOT / "pipeline").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    unused = [name for name in FILES if not name.startswith("query/named/") and name not in texts]
    assert not unused, f"nothing reads {', '.join(unused)}"


@pytest.mark.slow
def test_queries_are_found_in_an_archive_of_the_package(tmp_path: Path) -> None:
    """The executors of a cluster may import the package so; its modules are the same."""
    made = archive(tmp_path / "lakescore.zip")
    script = (
        "from pipeline.database import sql_files\nfrom pipeline.buckets.work import code_digest\n"
        "print(sql_files.__file__, len(sql_files.load('selecting/to_score')), *sql_files.named(), code_digest())"
    )
    environment = {**os.environ, "PYTHONPATH": str(made)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    place, length, *names, digest = done.stdout.split()
    assert place.startswith(str(made))
    assert int(length) == len(sql_files.load("selecting/to_score"))
    assert names == list(sql_files.named())
    assert digest == code_digest()
