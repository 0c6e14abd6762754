"""An object store as storage: S3 and what speaks its language, Google's and Azure's, through obstore.

`create` is a put with `If-None-Match: *`. Staging takes place on a local disk, and each prediction is uploaded once,
when it is published. Credentials, endpoint and encryption are obstore's own settings, from the environment (`AWS_...`,
`GOOGLE_...`, `AZURE_...`); nothing of them is kept here.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import from_url

from pipeline.errors import CommitUnknown, LakescoreError, StorageError, StorageUnavailable
from pipeline.records import FileInfo
from pipeline.storage.local import LocalStorage

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection
    from obstore.store import ObjectStore

STATUS = re.compile(r"status code: (\d{3}[\w ]*)")
CODE = re.compile(r"<Code>(\w+)</Code>")
PASSING = re.compile(r"40[89]|429|5\d\d")
"""Statuses after which the same call may succeed; obstore has tried again several times by then."""
BUFFER = 1 << 16
"""Bytes; small reads of a footer come together to one request."""
WILD = re.compile(r"[*?\[]")


class ObjectStorage:
    """A bucket, or what lies under a prefix of it."""

    def __init__(self, url: str, retry_config: Any = None) -> None:
        self.url = url.rstrip("/")
        self._retry = retry_config
        self._stores: dict[str, ObjectStore] = {}

    def __str__(self) -> str:
        return self.url

    @cached_property
    def workspace(self) -> LocalStorage:
        """A folder of this lake below LAKESCORE_SCRATCH, or below the system's folder for temporary files.

        It stays from run to run, so that the next run on this machine takes up what a crashed one had staged.
        """
        top = os.environ.get("LAKESCORE_SCRATCH") or f"{tempfile.gettempdir()}/lakescore-{os.getuid()}"
        return LocalStorage(Path(top).absolute() / hashlib.sha256(self.url.encode()).hexdigest()[:16])

    def where(self, key: str) -> str:
        return key if "://" in key or key.startswith("/") else f"{self.url}/{key}"

    def attach(self, con: Connection) -> None:
        from pipeline.storage.reading import attach

        attach(con, self, self.url.partition("://")[0])

    def files(self, prefix: str) -> list[FileInfo]:
        prefix = prefix.strip("/")
        store, path = self._at(prefix)
        own = "://" not in prefix
        before = "" if own else prefix.removesuffix(path)
        with self._explained(prefix):
            found = (_info(before + meta["path"], meta) for chunk in obstore.list(store, path) for meta in chunk)
            return sorted(found, key=lambda file: file.path)

    def folders(self, prefix: str) -> list[str]:
        prefix = prefix.strip("/")
        store, path = self._at(prefix)
        with self._explained(prefix):
            found = obstore.list_with_delimiter(store, path)
        return sorted(name.rstrip("/").rpartition("/")[2] for name in found["common_prefixes"])

    def glob(self, pattern: str) -> list[FileInfo]:
        if pattern.startswith("/"):
            return LocalStorage(Path("/")).glob(pattern)
        steps = pattern.split("/")
        fixed = next((number for number, step in enumerate(steps) if WILD.search(step)), len(steps))
        if fixed == len(steps):
            found = self.head(pattern)
            return [found] if found else []
        files = ((file, file.path.split("/")) for file in self.files("/".join(steps[:fixed])))
        return [file for file, path in files if matches(path, steps) and not _hidden(path[fixed:])]

    def head(self, key: str) -> FileInfo | None:
        try:
            return self.stat(key)[0]
        except FileNotFoundError:
            return None

    def read(self, key: str) -> bytes | None:
        store, path = self._at(key)
        try:
            with self._explained(key):
                return bytes(obstore.get(store, path).bytes())
        except FileNotFoundError:
            return None

    def open(self, key: str) -> BinaryIO:
        return self.reader(self.stat(key)[0])

    def stat(self, key: str) -> tuple[FileInfo, datetime]:
        """Returns a file and the time of its last change. Raises FileNotFoundError."""
        store, path = self._at(key)
        with self._explained(key):
            meta = obstore.head(store, path)
            return _info(key, meta), meta["last_modified"]

    def reader(self, file: FileInfo) -> BinaryIO:
        return cast("BinaryIO", io.BufferedReader(_Ranges(self, file), BUFFER))

    def read_range(self, key: str, start: int, length: int) -> bytes:
        store, path = self._at(key)
        with self._explained(key):
            return bytes(obstore.get_range(store, path, start=start, length=length))

    def create(self, key: str, finished: Path) -> FileInfo:
        with self._explained(key, writing=True):
            try:
                put = obstore.put(self._store, key, finished, mode="create")
            except AlreadyExistsError:
                raise FileExistsError(self.where(key)) from None
        return FileInfo(path=key, size=finished.stat().st_size, etag=str(put["e_tag"]))

    def write(self, key: str, content: bytes) -> None:
        with self._explained(key):
            obstore.put(self._store, key, content)

    def replace(self, key: str, finished: Path) -> FileInfo:
        with self._explained(key):
            put = obstore.put(self._store, key, finished)
        return FileInfo(path=key, size=finished.stat().st_size, etag=str(put["e_tag"]))

    def update(self, key: str, content: bytes, seen: FileInfo | None) -> bool:
        with self._explained(key, writing=True):
            try:
                obstore.put(self._store, key, content, mode="create" if seen is None else {"e_tag": seen.etag})
            except (AlreadyExistsError, PreconditionError):
                return False
        return True

    def delete(self, key: str) -> None:
        with suppress(FileNotFoundError), self._explained(key):
            obstore.delete(self._store, key)

    def probe(self) -> None:
        key = f".probe-{secrets.token_hex(4)}"
        with tempfile.NamedTemporaryFile() as empty:
            try:
                self.create(key, Path(empty.name))
                self.create(key, Path(empty.name))
            except FileExistsError:
                return
            finally:
                self.delete(key)
        raise StorageError("this object store lets a file be created twice", where=self.url)

    @property
    def _store(self) -> ObjectStore:
        return self._at("")[0]

    def _at(self, key: str) -> tuple[ObjectStore, str]:
        """Returns the store and the path in it; a URL may name another bucket of the same kind."""
        root, path = self.url, key
        if "://" in key and key != self.url and not key.startswith(self.url + "/"):
            scheme, _, rest = key.partition("://")
            bucket, _, path = rest.partition("/")
            root = f"{scheme}://{bucket}"
        elif "://" in key:
            path = key.removeprefix(self.url).lstrip("/")
        if root not in self._stores:
            insecure = any(os.environ.get(name, "").startswith("http://") for name in ENDPOINTS)
            with self._explained(root):
                self._stores[root] = from_url(
                    root, client_options={"allow_http": True} if insecure else None, retry_config=self._retry
                )
        return self._stores[root], path

    @contextmanager
    def _explained(self, key: str, *, writing: bool = False) -> Iterator[None]:
        """Turns the store's refusals into errors of ours. Their own text is not shown: it may hold a key's name."""
        try:
            yield
        except (LakescoreError, FileExistsError):
            raise
        except FileNotFoundError as error:
            if writing or "NoSuchBucket" in str(error):
                raise _translated(error, self.where(key), writing=writing) from None
            raise
        except (BaseError, OSError, ValueError) as error:
            raise _translated(error, self.where(key), writing=writing) from None


ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT", "AZURE_ENDPOINT", "GOOGLE_BASE_URL")


def _translated(error: BaseException, where: str, *, writing: bool) -> LakescoreError:
    text = str(error)
    status = match.group(1).strip() if (match := STATUS.search(text)) else ""
    code = f" ({match.group(1)})" if (match := CODE.search(text)) else ""
    if status and not PASSING.match(status):
        return StorageError(
            "the object store refused",
            where=where,
            got=status + code,
            next_step="check bucket, credentials and rights: they come from the environment",
        )
    if not status and isinstance(error, (ValueError, FileNotFoundError)):
        return StorageError("the object store cannot be opened", where=where, got=type(error).__name__)
    got = status + code if status else f"no answer ({type(error).__name__})"
    if writing:
        return CommitUnknown("no telling whether the object store took the file", where=where, got=got)
    return StorageUnavailable("the object store does not answer as it should", where=where, got=got)


class _Ranges(io.RawIOBase):
    """A file of an object store; each read asks for one range."""

    def __init__(self, storage: ObjectStorage, file: FileInfo) -> None:
        self._storage, self._file, self._at = storage, file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = (0, self._at, self._file.size)[whence] + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self._file.size - self._at)
        if length <= 0:
            return 0
        content = self._storage.read_range(self._file.path, self._at, length)
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)


def matches(path: list[str], pattern: list[str]) -> bool:
    """Tells whether the steps of a path fit those of a glob; `**` stands for any number of them."""
    if not pattern or not path:
        return not path and all(step == "**" for step in pattern)
    if pattern[0] == "**":
        return matches(path[1:], pattern) or matches(path, pattern[1:])
    return fnmatchcase(path[0], pattern[0]) and matches(path[1:], pattern[1:])


def _hidden(steps: list[str]) -> bool:
    return any(step.startswith((".", "_")) for step in steps)


def _info(path: str, meta: Any) -> FileInfo:
    return FileInfo(path=path, size=meta["size"], etag=str(meta["e_tag"]))
