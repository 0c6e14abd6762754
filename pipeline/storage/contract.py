"""The contract between the commit protocol and a storage; every kind of storage must fulfil it.

Keys are relative, with forward slashes. Every storage passes `StorageContract` in `tests/storage/test_contract.py`.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from pipeline.records import FileInfo
from pipeline.storage.patterns import Matches

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

    from pipeline.storage.local import LocalStorage

SMALL_READ = 1 << 16
"""Number of bytes that a smaller read fetches from an object store: what is read next is often beside it."""


class Storage(Protocol):
    """Writes are durable when the call returns, and a reader sees a complete file or none.

    Permanent failures raise StorageError; failures that a retry may fix raise StorageUnavailable.
    """

    @property
    def workspace(self) -> LocalStorage:
        """The local disk on which files are written before they are published: the storage itself if it is local."""

    def where(self, key: str) -> str:
        """Returns the address of a key, for messages and for DuckDB connections prepared by `attach`."""

    def attach(self, con: Connection) -> None:
        """Lets a connection read addresses from `where`, fetching only the columns and row groups that it needs."""

    def files(self, prefix: str) -> list[FileInfo]:
        """Returns the files below a folder, at any depth, sorted by path; an empty list for an absent folder."""

    def folders(self, prefix: str) -> list[str]:
        """Returns the names of the folders directly in a folder, sorted."""

    def glob(self, pattern: str) -> Matches:
        """Returns what matches a pattern of `patterns.py`; names that begin with `.` or `_` are not data.

        A folder is listed among the others if none of the matching files lies below it. On a disk, each file has its
        change time. An absolute path or a URL is also accepted as a pattern; the returned paths then have the same
        form. Raises StorageError for a folder that cannot be listed.
        """

    def head(self, key: str) -> FileInfo | None: ...

    def stat(self, key: str) -> tuple[FileInfo, datetime]:
        """Returns a file and the time of its last change, with a time zone. Raises FileNotFoundError."""

    def read(self, key: str) -> bytes | None: ...

    def open(self, key: str) -> BinaryIO:
        """Opens a file for reading with random access. Raises FileNotFoundError."""

    def create(self, key: str, finished: Path) -> FileInfo:
        """Publishes a finished, synced local file under a name that must be free; the local file stays.

        Raises FileExistsError if the name is taken; nothing is changed then. Raises CommitUnknown if the outcome is
        unknown, for example after a timeout: look before retrying.
        """

    def copy(self, source: str, key: str) -> FileInfo:
        """Publishes a file of this storage, under a name that must be free, without moving its content through here.

        Raises what `create` raises, and FileNotFoundError if there is no such file.
        """

    def write(self, key: str, content: bytes) -> None:
        """Replaces a file as a whole: a reader sees the old content or the new."""

    def replace(self, key: str, finished: Path) -> FileInfo:
        """Like `write`, with the content of a finished, synced local file; the local file stays."""

    def update(self, key: str, content: bytes | Path, seen: FileInfo | None) -> bool:
        """Replaces a file as a whole if it is still `seen` (None: absent). Otherwise writes nothing and returns False.

        `content` may also be a finished, synced local file, which stays.
        """

    def delete(self, key: str) -> None:
        """Removes a file; an absent file is not an error."""

    def probe(self) -> None:
        """Checks that `create` refuses a taken name here, and `update` an outdated file. Raises StorageError if not."""

    def probe_copy(self) -> None:
        """Checks that `copy` works here, and refuses a taken name. Raises StorageError if not."""
