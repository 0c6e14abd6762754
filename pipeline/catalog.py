"""`lake.duckdb`: the views of `views.py` in a file that any DuckDB client can open.

It holds no data. Its views read patterns with absolute paths, so that they show what is written later, too.
"""

from __future__ import annotations

import secrets
from contextlib import closing
from pathlib import Path

import duckdb

from pipeline import database, views
from pipeline.job import Job
from pipeline.lake import Lake
from pipeline.storage import explained, make_folder, sync_file, sync_folder

FILE = "lake.duckdb"
CONFIG = database.CONFIG | {"storage_compatibility_version": "v1.4.0"}
"""DuckDB 1.4 opens the file, too: the views say nothing that it does not know."""


def write(lake: Lake, job: Job | None = None) -> Path:
    """Writes the catalog as a whole, in place of the one before; returns its path.

    The path is a local one also of a lake in an object store. `job` is the one whose input is `unscored`. What a view
    reads must exist when the view is made: a lake's first predictions, quarantine or input, and those of a new job,
    show in a new catalog only.
    """
    target = lake.workspace.path(FILE).absolute()
    temporary = target.with_name(f".{FILE}.{secrets.token_hex(4)}.tmp")
    lake.prepare()
    try:
        with explained(target):
            make_folder(target.parent)
            with closing(duckdb.connect(temporary, config=CONFIG)) as con:
                lake.storage.attach(con)
                views.create(con, lake, lasting=True)
                if job is not None:
                    views.create_unscored(con, lake, job, lasting=True)
            sync_file(temporary)
            temporary.replace(target)
            sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)
    return target
