"""`lake.duckdb`: the views of `views.py` in a file that any DuckDB client can open.

It holds no data. Its views read patterns with absolute paths, so that they also show files that are written later.
"""

from __future__ import annotations

import secrets
from contextlib import closing
from pathlib import Path

import duckdb

from pipeline.database.connection import CONFIG as CONNECTION
from pipeline.database.connection import SESSION
from pipeline.job.config import Job
from pipeline.lake.layout import Lake
from pipeline.query import unscored, views
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
                for setting in SESSION:
                    con.execute(setting)
                lake.storage.attach(con)
                views.create(con, lake, lasting=True)
                if job is not None:
                    unscored.create(con, lake, job, lasting=True)
            sync_file(temporary)
            temporary.replace(target)
            sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)
    return target
