"""Lets DuckDB read an object store: by its own httpfs, or else by ranges through us. Both read what a query needs."""

from __future__ import annotations

import logging
import os
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, BinaryIO

import duckdb
from fsspec import AbstractFileSystem

from pipeline.records import FileInfo

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

    from pipeline.storage.object_store import ObjectStorage

log = logging.getLogger(__name__)


def attach(con: Connection, storage: ObjectStorage, scheme: str) -> None:
    """Registers the storage with a connection, unless its httpfs can be loaded and finds credentials as we do."""
    if not _load_httpfs(con, scheme):
        con.execute("SET enable_external_file_cache = false")  # it would tell a replaced file by its second alone
        if con.filesystem_is_registered(scheme):
            con.unregister_filesystem(scheme)
        con.register_filesystem(_files(storage, scheme))


def _load_httpfs(con: Connection, scheme: str) -> bool:
    """Never from the network: only what is installed beside DuckDB.

    `credential_chain` is how the aws extension reads the
    environment; no secret passes through SQL. It knows nothing of an endpoint of one's own.
    """
    if scheme != "s3" or any(name.startswith("AWS_ENDPOINT") for name in os.environ):
        return False
    try:
        con.load_extension("httpfs")
        con.load_extension("aws")
        con.execute("CREATE OR REPLACE SECRET lake (TYPE s3, PROVIDER credential_chain)")
    except duckdb.Error as error:
        _say_once(str(error).splitlines()[0].partition(":")[0])
        return False
    return True


@cache
def _say_once(reason: str) -> None:
    log.info("DuckDB's httpfs cannot be loaded (%s): the object store is read through obstore", reason)


def _files(storage: ObjectStorage, scheme: str) -> AbstractFileSystem:
    """Returns what DuckDB's `register_filesystem` takes: the reading half of fsspec's contract."""

    class Files(AbstractFileSystem):  # type: ignore[misc]
        protocol = scheme
        cachable = False

        def __init__(self) -> None:
            super().__init__()
            self._seen: dict[str, tuple[FileInfo, datetime]] = {}

        def _stat(self, path: str) -> tuple[FileInfo, datetime]:
            """Asks once for each file: DuckDB does so several times, and a connection of ours lives for one query."""
            url = path if "://" in path else f"{scheme}://{path}"
            if url not in self._seen:
                self._seen[url] = storage.stat(url)
            return self._seen[url]

        def info(self, path: str, **_: Any) -> dict[str, Any]:
            return {"name": path, "size": self._stat(path)[0].size, "type": "file"}

        def modified(self, path: str) -> datetime:
            return self._stat(path)[1]

        def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:  # noqa: FBT001, FBT002
            files = storage.files(path if "://" in path else f"{scheme}://{path}")
            found = [{"name": file.path.partition("://")[2], "size": file.size, "type": "file"} for file in files]
            return found if detail else [each["name"] for each in found]

        def _open(self, path: str, mode: str = "rb", **_: Any) -> BinaryIO:
            if mode != "rb":
                raise PermissionError(path)
            return storage.reader(self._stat(path)[0])

    return Files()
