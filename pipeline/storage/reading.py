"""Lets DuckDB read an object store, by its httpfs or through `ObjectStorage`; both fetch only what a query needs."""

from __future__ import annotations

import io
import logging
import os
import threading
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import duckdb
from fsspec import AbstractFileSystem

from pipeline.records import FileInfo
from pipeline.storage.contract import SMALL_READ

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

log = logging.getLogger(__name__)


class Readable(Protocol):
    """The part of an object store that reading needs; files are addressed by URL."""

    def stat(self, url: str) -> tuple[FileInfo, datetime]: ...

    def files(self, prefix: str) -> list[FileInfo]: ...

    def read_range(self, url: str, start: int, length: int) -> bytes: ...


def attach(con: Connection, storage: Readable, scheme: str) -> None:
    """Registers the storage with a connection, unless DuckDB's httpfs can be loaded and finds the same credentials."""
    con.execute("SET disable_parquet_prefetching = false")  # it would send a request for each page
    if not _load_httpfs(con, scheme):
        con.execute("SET enable_external_file_cache = false")  # it detects replaced files only to the second
        if con.filesystem_is_registered(scheme):
            con.unregister_filesystem(scheme)
        con.register_filesystem(_files(storage, scheme))


def _load_httpfs(con: Connection, scheme: str) -> bool:
    """Returns whether httpfs could be loaded. Loads only installed extensions, never from the network.

    With `credential_chain` the aws extension reads the environment, so that no secret passes through SQL. It does not
    support a custom endpoint.
    """
    if scheme != "s3" or any(name.startswith("AWS_ENDPOINT") for name in os.environ):
        return False
    try:
        con.load_extension("httpfs")
        con.load_extension("aws")
        con.execute("CREATE OR REPLACE SECRET lake (TYPE s3, PROVIDER credential_chain)")
    except duckdb.Error as error:
        _log_once(str(error).splitlines()[0].partition(":")[0])
        return False
    return True


@cache
def _log_once(reason: str) -> None:
    log.info("DuckDB's httpfs cannot be loaded (%s): the object store is read through obstore", reason)


def _files(storage: Readable, scheme: str) -> AbstractFileSystem:
    """Returns the read-only fsspec file system that DuckDB's `register_filesystem` expects."""

    class Files(AbstractFileSystem):  # type: ignore[misc]
        protocol = scheme
        cachable = False

        def __init__(self) -> None:
            super().__init__()
            self._seen: dict[str, tuple[FileInfo, datetime]] = {}

        def _stat(self, path: str) -> tuple[FileInfo, datetime]:
            """Caches the answer for each file: DuckDB asks several times, and our connections live for one query."""
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

        def _open(self, path: str, mode: str = "rb", **_: Any) -> SharedFile:
            if mode != "rb":
                raise PermissionError(path)
            return SharedFile(storage, self._stat(path)[0])

    return Files()


class SharedFile(io.RawIOBase):
    """A file of which several threads read parts through one handle: each of DuckDB's seeks, and then reads.

    The two are separate calls. A read that follows a seek of the same thread is at that place, whatever other threads
    do between the two; any other read goes on where the last one ended.
    """

    def __init__(self, storage: Readable, info: FileInfo) -> None:
        self._storage, self._info, self._at = storage, info, 0
        self._thread = threading.local()
        self._block = (0, b"")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        sought: int | None = getattr(self._thread, "sought", None)
        return self._at if sought is None else sought

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = self._thread.sought = (0, self.tell(), self._info.size)[whence] + offset
        return self.tell()

    def read(self, size: int | None = -1) -> bytes:
        at, self._thread.sought = self.tell(), None
        left = max(self._info.size - at, 0)
        content = self._content(at, left if size is None or size < 0 else min(size, left))
        self._at = at + len(content)
        return content

    def _content(self, at: int, length: int) -> bytes:
        start, block = self._block
        if start <= at and at + length <= start + len(block):
            return block[at - start : at - start + length]
        if length >= SMALL_READ:
            return self._storage.read_range(self._info.path, at, length)
        block = self._storage.read_range(self._info.path, at, min(SMALL_READ, self._info.size - at))
        self._block = (at, block)
        return block[:length]
