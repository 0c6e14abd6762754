"""Rewriting stored Parquet files in place, under the same name, with fewer rows.

Every rewriting has a condition, `Storage.update`: the file is still the one whose rows were read. So two commands that
rewrite the same file at once never bring back what the other has removed.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import CommitConflict
from pipeline.lake.layout import Lake
from pipeline.lake.liveness import is_alive
from pipeline.records import FileInfo
from pipeline.storage import make_folder
from pipeline.storage.parquet import read_metadata, read_schema, write_parquet

if TYPE_CHECKING:
    import pyarrow as pa

SCRATCH = "care-"
"""Prefix of the folders in `.staging/` in which these commands work."""
TRIES = 20
"""Maximum number of attempts to rewrite a file that other processes keep replacing."""


@contextmanager
def scratch(lake: Lake) -> Iterator[Path]:
    """Yields an empty folder in the workspace of the lake and removes it afterwards."""
    name = f"{SCRATCH}{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(8)}"
    folder = lake.workspace.path(f".staging/{name}")
    make_folder(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def clear_abandoned(lake: Lake) -> None:
    """Removes the folders of processes on this host that were killed while they rewrote files: these may hold rows."""
    for name in lake.workspace.folders(".staging"):
        host, _, rest = name.removeprefix(SCRATCH).rpartition("-")[0].rpartition("-")
        if name.startswith(SCRATCH) and rest.isdecimal() and is_alive(host, int(rest)) is False:
            shutil.rmtree(lake.workspace.path(f".staging/{name}"), ignore_errors=True)


def metadata_of(lake: Lake, key: str) -> dict[str, str]:
    """Returns our metadata of a Parquet file. Reads the footer only."""
    with lake.storage.open(key) as file:
        return read_metadata(file)


def with_rows(
    lake: Lake, key: str, folder: Path, batches: Iterable[pa.RecordBatch], extra: Mapping[str, str] | None = None
) -> Path:
    """Writes a local file with these rows, and the columns and our metadata of a stored file; adds `extra` to these."""
    with lake.storage.open(key) as file:
        schema = read_schema(file)
    made = folder / f"{secrets.token_hex(8)}.parquet"
    write_parquet(made, schema, batches, {**metadata_of(lake, key), **(extra or {})})
    return made


def empty(lake: Lake, key: str, folder: Path, mark: str, run_id: str | None = None, kept: str | None = None) -> bool:
    """Replaces a part file by one without rows and with `mark` in its metadata; returns whether there was one to empty.

    With `run_id`, only a file of this run; with `kept`, a copy of it is kept under that key. Raises CommitConflict if
    other processes keep replacing the file.
    """
    for _ in range(TRIES):
        seen = lake.storage.head(key)
        if seen is None:
            return False
        metadata = metadata_of(lake, key)
        if mark in metadata or run_id not in (None, metadata.get("run_id")):
            return False
        if kept is not None and not keep_copy(lake, seen, kept, folder):
            continue
        if lake.storage.update(key, with_rows(lake, key, folder, (), {mark: "true"}), seen):
            return True
    raise CommitConflict("other processes keep replacing a file", where=lake.storage.where(key), next_step="run again")


def keep_copy(lake: Lake, seen: FileInfo, target: str, folder: Path) -> bool:
    """Copies a file to another key. Returns False if it is no longer `seen`: the copy may be of either content then."""
    before = lake.storage.head(target)
    path = folder / f"{secrets.token_hex(8)}.parquet"
    try:
        if lake.is_local:
            path = lake.workspace.path(seen.path)
        else:
            with lake.storage.open(seen.path) as source, path.open("wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
        copied = lake.storage.update(target, path, before)
    except FileNotFoundError:
        return False
    return copied and lake.storage.head(seen.path) == seen
