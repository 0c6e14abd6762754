"""`lake.duckdb`: the views of `views.py`, and the named queries as table macros, for any DuckDB client.

It holds no data. Its views read patterns with absolute paths, so that they also show files that are written later.
"""

from __future__ import annotations

import re
import secrets
from contextlib import closing
from pathlib import Path

import duckdb
from duckdb import ConstantExpression

from pipeline.database import sql_files
from pipeline.database.connection import CONFIG as CONNECTION
from pipeline.database.connection import SETTINGS
from pipeline.database.sql_files import NamedQuery
from pipeline.job.config import Job
from pipeline.lake.layout import Lake
from pipeline.query import unscored, views
from pipeline.query.running import parameters_of
from pipeline.storage import make_folder, sync_file, sync_folder, translated_os_errors

FILE = "lake.duckdb"
CONFIG = CONNECTION | {"storage_compatibility_version": "v1.4.0"}
"""DuckDB 1.4 can open the file too: the views use nothing that it lacks."""


def write_catalog(lake: Lake, job: Job | None = None) -> Path:
    """Writes the catalog as a whole, in place of the previous one; returns its path.

    The path is local even if the lake is in an object store. `unscored` is the input of `job`. The files that a view
    reads must exist when the view is made: a lake's first predictions, quarantine or input, and those of a new job,
    appear only in a new catalog.
    """
    target = lake.workspace.path(FILE).absolute()
    temporary = target.with_name(f".{FILE}.{secrets.token_hex(4)}.tmp")
    lake.prepare()
    try:
        with translated_os_errors(target):
            make_folder(target.parent)
            with closing(duckdb.connect(temporary, config=CONFIG)) as con:
                for setting in SETTINGS:
                    con.execute(setting)
                lake.storage.attach(con)
                views.create(con, lake, lasting=True)
                if job is not None:
                    unscored.create(con, lake, job, lasting=True)
                for query in sql_files.named().values():
                    con.execute(as_macro(query))
            sync_file(temporary)
            temporary.replace(target)
            sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def as_macro(query: NamedQuery) -> str:
    """Returns the statement that creates a table macro of a named query.

    Its parameters are those of the query with `_` behind the name, such as `from_`: DuckDB refuses a macro whose
    parameter is a column of a table that it reads. Those without a default come first. Each is cast to its type, since
    a macro's parameters have none.
    """
    parameters = parameters_of(query)
    ordered = sorted(parameters, key=lambda name: parameters[name].default is not None)  # stable
    types = {name: "VARCHAR" if each.type == "DATE" else each.type for name, each in parameters.items()}
    body = re.sub(r"\$(\w+)", lambda match: f"{match[1]}_::{types[match[1]]}", query.statement)
    head = ", ".join(f"{name}_{_default(parameters[name].default)}" for name in ordered)
    return f"CREATE MACRO {query.name}({head}) AS TABLE {body}"


def _default(value: str | None) -> str:
    if value is None:
        return ""
    return " := NULL" if value == "NULL" else f" := {ConstantExpression(value)}"
