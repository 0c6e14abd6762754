"""What the commit protocol needs of a place where files lie; each kind of storage keeps these promises.

Keys are relative, with forward slashes. Every storage passes the tests of `tests/storage/contract.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

from pipeline.records import FileInfo

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

    from pipeline.storage.local import LocalStorage


class Storage(Protocol):
    """Writes are durable when the call returns, and a reader sees a file whole or not at all.

    What is refused for good raises StorageError; what may succeed later, StorageUnavailable.
    """

    @property
    def workspace(self) -> LocalStorage:
        """The disk on which files are made before they are published: the storage itself, if it is one."""

    def where(self, key: str) -> str:
        """Returns the address of a key, for people and for DuckDB in a connection that was attached."""

    def attach(self, con: Connection) -> None:
        """Lets a connection read the addresses of `where`, with only the columns and row groups that it needs."""

    def files(self, prefix: str) -> list[FileInfo]:
        """Returns the files below a folder, sorted by path; of an absent folder, none."""

    def folders(self, prefix: str) -> list[str]:
        """Returns the names of the folders directly in a folder, sorted."""

    def glob(self, pattern: str) -> list[FileInfo]:
        """Returns the files that match, sorted; names starting with `.` or `_` are not data.

        A pattern that is an absolute path or a URL is looked for there; the files then have such paths.
        """

    def head(self, key: str) -> FileInfo | None: ...

    def read(self, key: str) -> bytes | None: ...

    def open(self, key: str) -> BinaryIO:
        """Opens a file for reading at any place. Raises FileNotFoundError."""

    def create(self, key: str, finished: Path) -> FileInfo:
        """Publishes a finished, synced local file under a name that must be free; the file itself stays.

        Raises FileExistsError if the name is taken; nothing was changed then. Raises CommitUnknown if the answer was
        lost: look at what is there before you try again.
        """

    def write(self, key: str, content: bytes) -> None:
        """Replaces a file as a whole: a reader sees the old content or the new."""

    def replace(self, key: str, finished: Path) -> FileInfo:
        """As `write`, with the content of a finished, synced local file; the file itself stays."""

    def update(self, key: str, content: bytes, seen: FileInfo | None) -> bool:
        """As `write`, if the file is still the one `seen` (None: absent). Returns False, and writes nothing, if not."""

    def delete(self, key: str) -> None:
        """Removes a file; an absent one is no error."""

    def probe(self) -> None:
        """Makes sure that `create` is honoured here. Raises StorageError."""
